package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/report"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
)

func trainCommand() *cli.Command {
	d := training.DefaultConfig
	return newCommand(spec{
		name:  "train",
		usage: "train a DiT from latents",
		description: "Trains on latents that encode-latents made, with the recipe of the DiT\n" +
			"paper unless flags say otherwise. Everything goes into a run folder:\n" +
			"configuration, logs, loss curve, previews and checkpoints. An interrupt\n" +
			"saves a checkpoint first.",
		example: "ditrun train --data latents --model DiT-XL/2 --vae vae --sample-every 5000\n" +
			"ditrun train --config small-gpu --data latents --max-steps 100000\n" +
			"ditrun train --config results/000-DiT-XL-2/config.yaml --resume auto",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Usage: "latents in `DIR`; or pictures, encoded at every step by --vae"},
			&cli.StringFlag{Name: "labels", Usage: "for pictures: the classes of those in no class folders, in `FILE`"},
			&cli.IntFlag{Name: "num-workers", DefaultText: "the cores less one",
				Usage: "for pictures: `N` goroutines that decode"},
			orientationFlag("for pictures: exif turns them, as-stored does not"),
			onErrorFlag("for pictures: fail names bad ones, skip leaves them out"),
			&cli.StringFlag{Name: "data-order", Value: d.DataOrder,
				Usage: "shuffle, or block for disks slow at single latents"},
			&cli.BoolFlag{Name: "data-on-device", DisableDefaultText: true,
				Usage: "all latents in the memory of the device"},
			&cli.StringFlag{Name: "model", Value: "DiT-XL/2",
				Usage: "DiT-S/2 ... DiT-XL/8, or DiT-WIDTHxDEPTHxHEADS/PATCH"},
			&cli.StringFlag{Name: "block", Value: dit.AdaLNZero.String(),
				Usage: "in-context, cross-attention, adaln or adaln-zero"},
			&cli.StringFlag{Name: "condition", Value: dit.OnClass.String(), Usage: "class, text, text+class or none"},
			&cli.BoolFlag{Name: "unconditional", DisableDefaultText: true, Usage: "short for --condition none"},
			&cli.StringFlag{Name: "init-from", DefaultText: "new weights",
				Usage: "start from weights at `PATH`, as sample --ckpt takes"},
			imageSizeFlag("that of the latents", "`PIXELS` a side, or HEIGHTxWIDTH; checked"),
			&cli.IntFlag{Name: "num-classes", DefaultText: "those of the latents", Usage: "`N` classes"},
			&cli.IntFlag{Name: "global-batch-size", Value: d.GlobalBatchSize, Usage: "`N` samples a step"},
			&cli.IntFlag{Name: "epochs", Value: d.Epochs, Usage: "passes over the data"},
			&cli.IntFlag{Name: "max-steps", DefaultText: "no limit",
				Usage: "end after `N` steps even before the last epoch"},
			&cli.Float64Flag{Name: "lr", Value: d.LR, Usage: "learning rate"},
			&cli.IntFlag{Name: "warmup-steps", Usage: "raise the learning rate over the first `N` steps"},
			&cli.StringFlag{Name: "lr-schedule", Value: d.LRSchedule, Usage: "constant, linear or cosine"},
			&cli.Float64Flag{Name: "final-lr", Usage: "where linear and cosine end, as a `SHARE` of the learning rate"},
			&cli.Float64Flag{Name: "weight-decay", Value: d.WeightDecay, Usage: "AdamW's weight decay"},
			&cli.Float64Flag{Name: "ema-decay", Value: d.EMADecay,
				Usage: "of the average of the weights that is sampled from"},
			&cli.BoolFlag{Name: "ema-warmup", DisableDefaultText: true,
				Usage: "average over fewer steps while there are few"},
			&cli.IntFlag{Name: "gradient-accumulation-steps", Value: 1,
				Usage: "take a batch in `N` parts, for less memory"},
			&cli.BoolFlag{Name: "recompute-activations", DisableDefaultText: true,
				Usage: "compute blocks again for gradients, for less memory"},
			&cli.Float64Flag{Name: "max-grad-norm", DefaultText: "no clipping",
				Usage: "scale gradients down to this `NORM`"},
			&cli.Float64Flag{Name: "class-dropout-prob", Value: dit.XL2.ClassDropoutProb,
				Usage: "share of labels dropped, for guidance"},
			&cli.Float64Flag{Name: "flip-prob", Value: -1, DefaultText: "0.5 if the latents allow",
				Usage: "share of mirrored views"},
			&cli.StringFlag{Name: "precision", DefaultText: "tf32 on CUDA, else fp32", Usage: "fp32, tf32 or bf16"},
			&cli.Uint64Flag{Name: "global-seed", Usage: "of weights, order, noise, timesteps and dropped labels"},
			&cli.BoolFlag{Name: "deterministic", DisableDefaultText: true,
				Usage: "only algorithms that give the same bits again"},
			&cli.StringFlag{Name: "on-bad-step", Value: d.OnBadStep,
				Usage: "after NaN or a spike: stop, skip or rollback"},
			&cli.Float64Flag{Name: "spike-factor", DefaultText: "never",
				Usage: "a loss above `F` times its mean is a spike"},
			&cli.IntFlag{Name: "log-every", Value: d.LogEvery, Usage: "steps between log lines"},
			&cli.IntFlag{Name: "ckpt-every", Value: d.CkptEvery, Usage: "steps between checkpoints"},
			&cli.IntFlag{Name: "keep-last", DefaultText: "all", Usage: "keep the last `N` checkpoints"},
			&cli.IntFlag{Name: "keep-every", DefaultText: "none",
				Usage: "with --keep-last: and those of every `N` steps"},
			&cli.IntFlag{Name: "sample-every", DefaultText: "never", Usage: "steps between previews; needs --vae"},
			&cli.StringFlag{Name: "vae", Usage: "the autoencoder in `DIR` that made the latents, for previews"},
			&cli.StringFlag{Name: "metrics-addr", DefaultText: "nowhere",
				Usage: "serve Prometheus metrics at `HOST:PORT`"},
			&cli.StringFlag{Name: "results-dir", Value: "results", Usage: "`DIR` for run folders"},
			&cli.StringFlag{Name: "run-dir", Usage: "the run folder itself, `DIR`, instead of one in --results-dir"},
			&cli.StringFlag{Name: "resume", Value: "none", Usage: "none, " +
				"auto (newest run with equal flags), a folder, a .pt"},
			&cli.StringFlag{Name: "config", Usage: "flags from a YAML `FILE`; or " + strings.Join(presetNames(), ", ")},
		},
		run:           runTrain,
		resultInFiles: true,
	})
}

// notOfTheRun are flags that may change when a run is continued.
var notOfTheRun = []string{"resume", "max-steps", "epochs", "device", "threads", "results-dir", "run-dir", "data",
	"vae", "metrics-addr", "log-every", "ckpt-every", "sample-every",
	"labels", "num-workers", "data-on-device", "keep-last", "keep-every", "gradient-accumulation-steps",
	"recompute-activations", "on-bad-step",
	"orientation", "on-error"}

func runTrain(e *env) error {
	c := e.flags
	if err := e.require("data"); err != nil {
		return err
	}
	if err := e.atLeast(1, "global-batch-size", "epochs", "log-every", "ckpt-every",
		"gradient-accumulation-steps"); err != nil {
		return err
	}
	if err := e.atLeast(0, "max-steps", "warmup-steps", "sample-every", "keep-last", "keep-every",
		"num-workers"); err != nil {
		return err
	}
	if err := e.pictureChoices(); err != nil {
		return err
	}
	if c.Int("sample-every") > 0 && c.String("vae") == "" {
		return withHint(usagef("train: --sample-every needs --vae"),
			"give the folder that encode-latents was given with --vae")
	}
	named, err := dit.Named(c.String("model"))
	if err != nil {
		return usageError{err}
	}
	if named.Block, err = dit.ParseBlock(c.String("block")); err != nil {
		return usageError{fmt.Errorf("--%w", err)} // it begins with block
	}
	if named.Condition, err = e.condition(); err != nil {
		return err
	}
	process, err := dist.Detect(os.Getenv)
	if err != nil {
		return usageError{err}
	}
	if process.Rank > 0 {
		e.quiet = true
	}
	var metrics net.Listener // opened before anything is made, since another run may have the address
	if addr := c.String("metrics-addr"); addr != "" && process.Rank == 0 {
		if metrics, err = report.ListenForMetrics(addr); err != nil {
			return err
		}
		defer metrics.Close()
	}
	t, err := e.openTrainInput(process)
	if err != nil {
		return err
	}
	defer t.close()
	model, start, startErr := startModel(e, named, t.set)
	if startErr != nil && c.String("resume") == "none" {
		return startErr
	}
	if start != nil {
		defer start.Close()
	}
	if t.config, err = trainConfig(e, model, t.set, t.device); err != nil {
		return err
	}
	if start != nil {
		t.config.Init = start.Source
	}
	group, err := e.openGroup(process, t.device)
	if err != nil {
		return err
	}
	defer group.Close()
	if err := e.checkTrainInput(t, group); err != nil {
		return err
	}
	p, err := e.openPlace(t, group, startErr)
	if err != nil {
		return err
	}
	job := training.Job{Device: t.device, Config: t.config, Source: t.source, Dir: filepath.Join(p.Dir, "checkpoints"),
		Resume: p.Resume, Group: group}
	if group.Rank() > 0 {
		job.Hooks.BadStep = func(b training.BadStep) { e.warn("rank %d: step %d: %s", group.Rank(), b.Step, b.Why) }
		_, err := training.Run(e.ctx, job)
		return e.ended(err, "")
	}
	defer p.folder.Close()
	if startErr != nil {
		e.warn("%v; the run goes on from its checkpoint", startErr)
	}
	for _, note := range p.folder.Notes() {
		e.warn("%s", note)
	}
	e.describeTraining(t, group.World(), p.Dir)
	preview, err := newPreviewer(e, t)
	if err != nil {
		return err
	}
	loop := &trainLog{env: e, folder: p.folder, preview: preview, failing: map[string]bool{}, last: p.last,
		before: time.Duration(float64(p.last.Seconds) * float64(time.Second))}
	if peak, ok := machine.PeakTFLOPS(t.device.Name(), t.config.Precision); ok {
		loop.peak = peak * float64(group.World())
	}
	if metrics != nil {
		url, stop := p.folder.Metrics().Serve(metrics)
		defer stop()
		p.folder.Printf("Metrics at %s", url)
	}
	job.Hooks = loop.hooks()
	result, err := training.Run(e.ctx, job)
	loop.plot()
	p.Dir = p.folder.Dir() // it may have been moved
	if err != nil {
		if result.Checkpoint != "" {
			err = withKept(err, "the same command with --run-dir %s --resume auto continues, from step %s in %s",
				p.Dir, format.Count(int64(result.Saved)), result.Checkpoint)
		}
		return e.ended(err, result.Checkpoint)
	}
	loop.bar.Finish()
	p.folder.Printf("Done!")
	return e.result(map[string]any{"run": p.Dir, "checkpoint": result.Checkpoint, "step": result.Step,
		"loss":             loop.last.Loss,
		"steps_per_second": loop.last.StepsPerSecond, "images_per_second": loop.last.ImagesPerSecond,
		"seconds": loop.last.Seconds})
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
func (e *env) openGroup(process dist.Env, dev torch.Device) (*dist.Group, error) {
	say := func(text string) { e.warn("rank %d: %s", process.Rank, text) }
	group, err := dist.Open(e.ctx, process, backend(dev), groupTimeout, say)
	if errors.As(err, new(*dist.GPUError)) {
		err = withHint(err, "`ditrun doctor` shows GPUs and NCCL; --device cpu needs neither")
	}
	if stuck := group.Stuck(); stuck != nil {
		go func() {
			if err, is := <-stuck; is {
				os.Exit(conclude(e.stderr, err, nil))
			}
		}()
	}
	return group, err
}

func backend(dev torch.Device) string {
	if dev.IsCUDA() {
		return "nccl:" + dev.String()
	}
	return "gloo"
}

// condition reads --condition, or --unconditional, which is short for one of its values.
func (e *env) condition() (dit.ConditionKind, error) {
	k, err := dit.ParseCondition(e.flags.String("condition"))
	if err != nil {
		return k, usageError{fmt.Errorf("--%w", err)} // it begins with condition
	}
	if !e.flags.Bool("unconditional") || k == dit.OnNothing {
		return k, nil
	}
	if e.flags.IsSet("condition") {
		return k, usagef("train: --unconditional and --condition %s exclude each other", k)
	}
	return dit.OnNothing, nil
}

// trainConfig builds the configuration from flags and from what the latents say.
func trainConfig(e *env, model dit.Config, set training.Set, dev torch.Device) (training.Config, error) {
	c := e.flags
	var cfg training.Config
	model.SetInput(set.Height, set.Width)
	model.InChannels = set.Channels
	model.ClassDropoutProb = c.Float64("class-dropout-prob")
	var text tokens.EncoderInfo
	if model.HasText() {
		if set.Text == nil {
			return cfg, withHint(fmt.Errorf("%s has no captions, for --condition %s", c.String("data"),
				model.Condition), "encode-latents --captions adds them to latents")
		}
		text = set.Text.Encoder
	}
	model.SetCondition(model.Condition, cmp.Or(c.Int("num-classes"), len(set.Classes)), text.Width, text.Length)
	if size := e.imageSize(set.ImageSize); size != set.ImageSize {
		return cfg, fmt.Errorf("%s holds latents of %s-pixel images, --image-size asks for %s", c.String("data"),
			set.ImageSize, size)
	}
	if e.orientation() == picture.ByEXIF && set.Orientation != picture.ByEXIF {
		return cfg, withHint(fmt.Errorf("%s holds latents of pictures as they were stored, --orientation exif asks "+
			"for others", c.String("data")), "encode-latents --orientation exif makes them")
	}
	cfg = training.Config{
		Model: model, ImageSize: set.ImageSize, Orientation: set.Orientation,
		GlobalBatchSize: c.Int("global-batch-size"), Epochs: c.Int("epochs"), MaxSteps: c.Int("max-steps"),
		LR: c.Float64("lr"), WarmupSteps: c.Int("warmup-steps"), LRSchedule: c.String("lr-schedule"),
		FinalLR:     c.Float64("final-lr"),
		WeightDecay: c.Float64("weight-decay"), EMADecay: c.Float64("ema-decay"),
		MaxGradNorm: c.Float64("max-grad-norm"),
		FlipProb:    c.Float64("flip-prob"), DataOrder: c.String("data-order"), Precision: c.String("precision"),
		GlobalSeed: c.Uint64("global-seed"), Deterministic: c.Bool("deterministic"),
		EMAWarmup: c.Bool("ema-warmup"), Accumulation: c.Int("gradient-accumulation-steps"),
		Recompute: c.Bool("recompute-activations"), OnBadStep: c.String("on-bad-step"),
		SpikeFactor: c.Float64("spike-factor"),
		LogEvery:    c.Int("log-every"), CkptEvery: c.Int("ckpt-every"), SampleEvery: c.Int("sample-every"),
		KeepLast: c.Int("keep-last"), KeepEvery: c.Int("keep-every"),
	}
	if cfg.FlipProb < 0 {
		cfg.FlipProb = 0
		if set.Flip {
			cfg.FlipProb = training.DefaultConfig.FlipProb
		}
	}
	if cfg.Precision == "" {
		cfg.Precision = "fp32"
		if dev.IsCUDA() {
			cfg.Precision = "tf32"
		}
	}
	if err := cfg.Validate(); err != nil {
		return cfg, usageError{fmt.Errorf("train: %w", err)}
	}
	// config.yaml says what the defaults came to.
	for _, flag := range []struct {
		name  string
		value any
	}{
		{"image-size", cfg.ImageSize}, {"num-classes", model.NumClasses}, {"flip-prob", cfg.FlipProb},
		{"precision", cfg.Precision}, {"block", model.Block}, {"condition", model.Condition},
	} {
		if err := c.Set(flag.name, fmt.Sprint(flag.value)); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// describeTraining says what was found, before work starts.
func (e *env) describeTraining(t *trainInput, world int, dir string) {
	cfg, set := t.config, t.set
	views := "one view"
	if set.Flip {
		views = "two views"
	}
	for _, row := range [][2]string{
		{"device", fmt.Sprintf("%s, %s", describeDevice(t.device), torch.BuildInfo())},
		{"data", fmt.Sprintf("%s: %s %s of %dx%dx%d, %s, %s", e.flags.String("data"), format.Count(int64(set.Samples)),
			t.what(), set.Channels, set.Height, set.Width, plural(len(set.Classes), "class"), views)},
		{"model", fmt.Sprintf("%s on %s, %s, %.3g GMACs a forward pass", cfg.Model.Design(), cfg.Model.Conditions(),
			plural(cfg.Model.NumTokens(), "token"), cfg.Model.MACs()/1e9)},
		{"recipe", fmt.Sprintf("batch %d, %s steps, lr %g %s, ema %g, %s", cfg.GlobalBatchSize,
			format.Count(int64(cfg.Steps(set.Samples))), cfg.LR, cfg.LRSchedule, cfg.EMADecay, cfg.Precision)},
		{"run", dir},
	} {
		if row[0] == "device" && world > 1 {
			row[1] += fmt.Sprintf(", %d processes", world)
		}
		e.printf("%-8s%s", row[0], row[1])
	}
	if steps := cfg.Steps(set.Samples); float64(steps)*(1-cfg.EMADecay) < 1 {
		e.warn("ema decay %g averages over some %.0f steps, the run has %s: its samples will be noise; a short run "+
			"wants 0.99 or less",
			cfg.EMADecay, 1/(1-cfg.EMADecay), format.Count(int64(steps)))
	}
}
