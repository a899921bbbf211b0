package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/report"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
)

func trainCommand() *cli.Command {
	o := &trainOptions{}
	return newCommand(spec{
		name:  "train",
		usage: "train a DiT from latents",
		description: "Trains on latents that encode-latents made, with the recipe of the DiT\n" +
			"paper unless flags say otherwise. Everything goes into a run folder:\n" +
			"configuration, logs, loss curve, previews and checkpoints. An interrupt\n" +
			"saves a checkpoint first.",
		example: "ditrun train --data latents --model DiT-XL/2 --vae vae --sample-every 5000\n" +
			"ditrun train --config small-gpu --data latents --max-steps 100000\n" +
			"ditrun train --resume results/000-DiT-XL-2",
		flags:    o.flags(),
		required: "data",
		groups:   trainGroups,
		check:    o.check,
		defaults: o.configOfRun,
		run: func(e *env) error {
			return withLessMemory(runTrain(e, o), "--gradient-accumulation-steps N, --recompute-activations and "+
				"--precision bf16 take less; `ditrun models` says what a model takes")
		},
		resultInFiles: true,
	})
}

// A trainJob is a run of training in one of its processes.
type trainJob struct {
	*env
	*trainInput
	options *trainOptions
	process dist.Env
	group   *dist.Group

	derived    []string     // keys of the configuration whose values follow from the length of the run
	weights    *dit.Weights // of --init-from, nil without
	resume     resumePoint
	resumeErr  error  // why there is none
	weightsErr error  // why the run cannot begin with --init-from
	saves      string // what its checkpoints take
}

func runTrain(e *env, o *trainOptions) error {
	process, err := dist.Detect(os.Getenv)
	if err != nil {
		return usageError{err}
	}
	if process.Rank > 0 {
		e.quiet = true
	} else if err := o.checkPlace(); err != nil {
		return err
	}
	if o.config.Deterministic {
		prepareDeterminism()
	}
	unfound, err := o.findWeights(e, process)
	if err != nil {
		return err
	}
	var metrics net.Listener // opened before anything is made, since another run may have the address
	if o.metricsAddr != "" && process.Rank == 0 {
		if metrics, err = report.ListenForMetrics(o.metricsAddr); err != nil {
			return err
		}
		defer metrics.Close()
	}
	endWait := e.waiting("opening the data")
	input, err := openTrainInput(e, o, process)
	endWait()
	if err != nil {
		return err
	}
	defer input.close()
	t := &trainJob{env: e, trainInput: input, options: o, process: process}
	o.fitToClasses(e, t.set)
	if t.weightsErr = unfound; unfound == nil {
		endWait = e.waiting("opening the initial weights")
		t.weights, err = o.initialWeights(e, t.set)
		endWait()
		if t.weights != nil {
			defer t.weights.Close()
		}
		if t.weightsErr = err; err != nil && o.resume == "none" {
			return err
		}
	}
	if err := o.complete(t.set, t.dev); err != nil {
		return err
	}
	hash, err := t.hash()
	if err != nil {
		return err
	}
	if err := t.openGroup(); err != nil {
		return err
	}
	defer t.group.Close()
	if process.Rank == 0 {
		endWait := e.waiting("checking the checkpoint")
		t.resume, t.resumeErr = o.resumePoint(hash, t.isConfigOf)
		endWait()
		if t.resumeErr == nil {
			t.resumeErr = t.resume.checkKind(t.set)
		}
		for _, text := range t.resume.warnings {
			e.warn("%s", text)
		}
	}
	if err := t.checkPictures(); err != nil {
		return err
	}
	endWait = e.waiting("checking the checkpoint")
	start, err := t.openRun()
	endWait()
	if err != nil {
		return err
	}
	if t.group.World() == 1 { // the processes of a group would choose otherwise each, and not repeat themselves
		if err := torch.SetProductChoices(start.Products); err != nil {
			return err
		}
	}
	o.config.EMADecay = start.EMADecay
	job := training.Job{Device: t.dev, Config: o.config, Source: t.source,
		Dir: filepath.Join(start.Dir, runs.CheckpointsName), Resume: start.Checkpoint, Group: t.group,
		FreeMemory: func() int64 { return machine.ReadMemory().Available }}
	if process.Rank > 0 {
		job.Hooks.BadStep = func(b training.BadStep) { e.warn("rank %d: step %d: %s", process.Rank, b.Step, b.Why) }
		_, err := training.Run(e.ctx, job)
		return e.ended(err, "")
	}
	defer start.folder.Close()
	return t.train(job, start, metrics)
}

// findWeights makes paths of names. That --init-from leads nowhere, which unfound says, does not concern a run that
// goes on, nor --vae one that only passes it on to whoever samples from it.
func (o *trainOptions) findWeights(e *env, process dist.Env) (unfound, err error) {
	if err := e.findWeights(o.fetch, ofVAE(&o.vae)); err != nil {
		if o.fetch || o.config.SampleEvery > 0 || !o.hasLatents() {
			return nil, err
		}
		if process.Rank == 0 {
			e.warn("%v; training does not need it", err)
		}
	}
	if unfound = e.findWeights(o.fetch, ofInitFrom(&o.initFrom)); o.resume == "none" {
		return nil, unfound
	}
	return unfound, nil
}

// hasLatents says whether --data is latents, else it is pictures.
func (o *trainOptions) hasLatents() bool { return exists(filepath.Join(o.data, latents.ManifestName)) }

// train runs the job on rank 0, which alone shows it.
func (t *trainJob) train(job training.Job, start runStart, metrics net.Listener) error {
	folder := start.folder
	if t.weightsErr != nil {
		t.warn("%v; the run goes on from its checkpoint", t.weightsErr)
	}
	if start.Checkpoint == "" && t.weights != nil {
		t.compareAutoencoders()
		t.compareObjectives()
	}
	for _, note := range folder.Notes() {
		t.warn("%s", note)
	}
	t.describe(folder.Dir())
	preview, err := newPreviewer(t.trainInput)
	if err != nil {
		return err
	}
	loop := &trainLog{env: t.env, dev: t.dev, folder: folder, preview: preview, failing: map[string]bool{},
		last: start.last, endWait: t.waiting("loading the model"),
		before: time.Duration(float64(start.last.Seconds) * float64(time.Second))}
	if peak, ok := machine.PeakTFLOPS(t.dev.Name(), string(job.Config.Precision)); ok {
		loop.peak = peak * float64(t.group.World())
	}
	if metrics != nil {
		url, stop := folder.Metrics().Serve(metrics)
		defer stop()
		folder.Printf("Metrics at %s", url)
	}
	job.Hooks = loop.hooks()
	result, err := training.Run(t.ctx, job)
	loop.plot()
	dir := folder.Dir() // it may have been moved
	if err != nil {
		if result.Checkpoint != "" {
			how := fmt.Sprintf("--run-dir %s --resume auto", dir)
			if t.options.resumesByName() {
				how = "--resume " + dir
			}
			err = withKept(err, "the same command with %s continues, from step %s in %s", how,
				format.Count(int64(result.Saved)), result.Checkpoint)
		}
		return t.ended(err, result.Checkpoint)
	}
	loop.bar.Finish()
	folder.Printf("Done!")
	return t.result(map[string]any{"run": dir, "checkpoint": result.Checkpoint, "step": result.Step,
		"loss": loop.last.Loss, "steps_per_second": loop.last.StepsPerSecond,
		"images_per_second": loop.last.ImagesPerSecond, "seconds": loop.last.Seconds})
}

// ended makes of a run that was told to stop, by a signal that is no interrupt or with another process, one that
// ended well: what it did is saved.
func (e *env) ended(err error, saved string) error {
	if !slices.ContainsFunc([]error{errTerminated, errHangup, errClosedPipe, training.ErrStopped},
		func(e error) bool { return errors.Is(err, e) }) {
		return err
	}
	if saved != "" {
		e.printf("Stopped; %s holds all that was done, --resume auto continues", saved)
	}
	return errSaved
}

// groupTimeout is how long a process waits for the others in a step.
const groupTimeout = 10 * time.Minute

// openGroup joins the processes of the run, over NCCL where they compute on GPUs.
func (t *trainJob) openGroup() (err error) {
	say := func(text string) { t.warn("rank %d: %s", t.process.Rank, text) }
	defer t.waiting("waiting for the other processes")()
	t.group, err = dist.Open(t.ctx, t.process, backend(t.dev), groupTimeout, say)
	if errors.As(err, new(*dist.GPUError)) {
		err = withHint(err, "`ditrun doctor` shows GPUs and NCCL; --device cpu needs neither")
	}
	if stuck := t.group.Stuck(); stuck != nil {
		go func() {
			if err, is := <-stuck; is {
				os.Exit(conclude(t.stderr, err, nil))
			}
		}()
	}
	return err
}

func backend(dev torch.Device) string {
	if dev.IsCUDA() {
		return "nccl:" + dev.String()
	}
	return "gloo"
}

// describe prints what was found, before work starts.
func (t *trainJob) describe(dir string) {
	cfg, set := t.config, t.set
	device := fmt.Sprintf("%s, %s", describeDevice(t.dev), torch.BuildInfo())
	if world := t.group.World(); world > 1 {
		device += fmt.Sprintf(", %d processes", world)
	}
	views := "one view"
	if set.Flip {
		views = "two views"
	}
	steps := cfg.Steps(set.Samples)
	t.printf("device  %s", device)
	sorted := plural(len(set.Classes), "class")
	if classes.None(set.Classes) {
		sorted = "no classes"
	}
	t.itemOf("data", t.options.data, fmt.Sprintf("%s of %dx%dx%d, %s, %s", t.samples(),
		set.Channels, set.Height, set.Width, sorted, views))
	t.item("", t.describeSize())
	t.item("model", fmt.Sprintf("%s on %s, %s, %.3g GMACs a forward pass", cfg.Model.Design(), cfg.Model.Conditions(),
		plural(cfg.Model.NumTokens(), "token"), cfg.Model.MACs()/1e9))
	t.item("recipe", fmt.Sprintf("batch %d, %s, lr %g %s, ema %g, %s", cfg.GlobalBatchSize, plural(steps, "step"),
		cfg.LR, cfg.LRSchedule, cfg.EMADecay, cfg.Precision))
	if cfg.MaxSteps > steps {
		t.item("", fmt.Sprintf("it ends after %s over the data, before step %s: --epochs gives more",
			plural(cfg.Epochs, "pass"), format.Count(int64(cfg.MaxSteps))))
	}
	if text := describeObjective(cfg); text != "" {
		t.item("", text)
	}
	t.item("", describeShares(cfg))
	t.printf("run     %s", dir)
	if t.saves != "" {
		t.item("saves", t.saves)
	}
	if t.options.runConfig != "" {
		t.printf("config  flags that were not given come from %s", t.options.runConfig)
	}
	t.describeAverage(steps)
}

// describeSize says what the latents are of, and whose word that is.
func (t *trainJob) describeSize() string {
	set := t.set
	if !t.pictures {
		return fmt.Sprintf("of %s-pixel pictures, scaling factor %.5g, as the latents say", set.ImageSize,
			set.ScalingFactor)
	}
	from := "--image-size"
	if !t.options.given("image-size") {
		from = "the autoencoder's size"
	}
	return fmt.Sprintf("of %s-pixel crops (%s), scaling factor %.5g of the autoencoder", set.ImageSize, from,
		set.ScalingFactor)
}

// describeObjective says what the model is trained on, "" where it is what DiT is.
func describeObjective(cfg *training.Config) string {
	text := cfg.Process().String()
	if cfg.IsFlow() {
		text += ", " + cfg.TimeSampling + " times"
	}
	if d := training.DefaultConfig; cfg.LossWeight != d.LossWeight {
		text += ", loss weight " + cfg.LossWeight
	} else if !cfg.IsFlow() {
		return ""
	}
	return text
}

// describeShares says what chance does to the samples.
func describeShares(cfg *training.Config) string {
	text := fmt.Sprintf("seed %d, %g %% of the samples mirrored", cfg.GlobalSeed, 100*cfg.FlipProb)
	dropped := "labels"
	switch m := cfg.Model; {
	case m.HasText() && m.HasClass():
		dropped = "labels and captions"
	case m.HasText():
		dropped = "captions"
	case !m.HasClass():
		return text
	}
	return text + fmt.Sprintf(", %g %% of the %s dropped", 100*cfg.Model.ClassDropoutProb, dropped)
}
