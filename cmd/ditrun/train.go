package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/report"
	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
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
			"ditrun train --config results/000-DiT-XL-2/config.yaml --resume auto",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Usage: "latents in `DIR`, made by encode-latents"},
			&cli.StringFlag{Name: "model", Value: "DiT-XL/2", Usage: "`NAME`: DiT-S/2 ... DiT-XL/8, or DiT-WIDTHxDEPTHxHEADS/PATCH"},
			&cli.StringFlag{Name: "init-from", DefaultText: "new weights", Usage: "start from weights at `PATH`, as sample --ckpt takes"},
			&cli.IntFlag{Name: "image-size", DefaultText: "that of the latents", Usage: "`PIXELS` a side; checked against the latents"},
			&cli.IntFlag{Name: "num-classes", DefaultText: "those of the latents", Usage: "`N` classes"},
			&cli.IntFlag{Name: "global-batch-size", Value: d.GlobalBatchSize, Usage: "`N` samples a step"},
			&cli.IntFlag{Name: "epochs", Value: d.Epochs, Usage: "passes over the data"},
			&cli.IntFlag{Name: "max-steps", DefaultText: "no limit", Usage: "end after `N` steps even before the last epoch"},
			&cli.Float64Flag{Name: "lr", Value: d.LR, Usage: "learning rate"},
			&cli.IntFlag{Name: "warmup-steps", Usage: "raise the learning rate over the first `N` steps"},
			&cli.StringFlag{Name: "lr-schedule", Value: d.LRSchedule, Usage: "constant, linear or cosine"},
			&cli.Float64Flag{Name: "final-lr", Usage: "where linear and cosine end, as a `SHARE` of the learning rate"},
			&cli.Float64Flag{Name: "weight-decay", Value: d.WeightDecay, Usage: "AdamW's weight decay"},
			&cli.Float64Flag{Name: "ema-decay", Value: d.EMADecay, Usage: "of the average of the weights that is sampled from"},
			&cli.Float64Flag{Name: "max-grad-norm", DefaultText: "no clipping", Usage: "scale gradients down to this `NORM`"},
			&cli.Float64Flag{Name: "class-dropout-prob", Value: dit.XL2.ClassDropoutProb, Usage: "share of labels dropped, for guidance"},
			&cli.Float64Flag{Name: "flip-prob", Value: -1, DefaultText: "0.5 if the latents allow", Usage: "share of mirrored views"},
			&cli.StringFlag{Name: "precision", DefaultText: "tf32 on CUDA, else fp32", Usage: "fp32, tf32 or bf16"},
			&cli.Uint64Flag{Name: "global-seed", Usage: "of weights, order, noise, timesteps and dropped labels"},
			&cli.BoolFlag{Name: "deterministic", DisableDefaultText: true, Usage: "only algorithms that give the same bits again"},
			&cli.IntFlag{Name: "log-every", Value: d.LogEvery, Usage: "steps between log lines"},
			&cli.IntFlag{Name: "ckpt-every", Value: d.CkptEvery, Usage: "steps between checkpoints"},
			&cli.IntFlag{Name: "sample-every", DefaultText: "never", Usage: "steps between previews; needs --vae"},
			&cli.StringFlag{Name: "vae", Usage: "the autoencoder in `DIR` that made the latents, for previews"},
			&cli.StringFlag{Name: "results-dir", Value: "results", Usage: "`DIR` for run folders"},
			&cli.StringFlag{Name: "run-dir", Usage: "the run folder itself, `DIR`, instead of one in --results-dir"},
			&cli.StringFlag{Name: "resume", Value: "none", Usage: "none, auto (newest run of this configuration) or a folder"},
			&cli.StringFlag{Name: "config", Usage: "flags from a YAML `FILE`, such as a run's config.yaml"},
		},
		run: runTrain,
	})
}

// notOfTheRun are flags that may change when a run is continued.
var notOfTheRun = []string{"resume", "device", "threads", "results-dir", "run-dir", "data", "vae", "log-every", "ckpt-every", "sample-every"}

func runTrain(e *env) error {
	c := e.flags
	if err := e.require("data"); err != nil {
		return err
	}
	if err := e.atLeast(1, "global-batch-size", "epochs", "log-every", "ckpt-every"); err != nil {
		return err
	}
	if err := e.atLeast(0, "max-steps", "warmup-steps", "sample-every"); err != nil {
		return err
	}
	if c.Int("sample-every") > 0 && c.String("vae") == "" {
		return withHint(usagef("train: --sample-every needs --vae"), "give the folder that encode-latents was given with --vae")
	}
	named, err := dit.Named(c.String("model"))
	if err != nil {
		return usageError{err}
	}
	latents, err := data.OpenLatents(c.String("data"))
	if err != nil {
		return withHint(err, "`ditrun encode-latents` makes latents from pictures")
	}
	defer latents.Close()
	model, start, startErr := startModel(e, named, latents)
	if startErr != nil && c.String("resume") == "none" {
		return startErr
	}
	if start != nil {
		defer start.Close()
	}
	dev, err := e.openDevice()
	if err != nil {
		return err
	}
	cfg, err := trainConfig(e, model, latents, dev)
	if err != nil {
		return err
	}
	if start != nil {
		cfg.Init = start.Source
	}
	hash, err := configHash(c, notOfTheRun...)
	if err != nil {
		return err
	}
	preview, err := newPreviewer(e, dev, latents)
	if err != nil {
		return err
	}
	defer preview.close()

	folder, resume, last, err := openRunFolder(e, cfg, dev, latents, hash, startErr)
	if err != nil {
		return err
	}
	defer folder.Close()
	if startErr != nil {
		e.warn("%v; the run goes on from its checkpoint", startErr)
	}
	e.describeTraining(cfg, latents, dev, folder.Dir())

	loop := &trainLog{env: e, folder: folder, preview: preview, last: last, before: time.Duration(float64(last.Seconds) * float64(time.Second))}
	result, err := training.Run(e.ctx, dev, cfg, latents, folder.Checkpoints(), resume, training.Hooks{
		Start: loop.start, Step: loop.step, Log: loop.log, Preview: loop.sample, Saved: loop.saved,
	})
	if plotErr := folder.PlotLoss(); err == nil {
		err = plotErr
	}
	if err != nil {
		if result.Checkpoint != "" {
			err = withHint(err, "the same command with --run-dir %s --resume auto continues", folder.Dir())
		}
		return err
	}
	loop.bar.Finish()
	folder.Printf("Done!")
	return e.result(map[string]any{"run": folder.Dir(), "checkpoint": result.Checkpoint, "step": result.Step, "loss": loop.last.Loss,
		"steps_per_second": loop.last.StepsPerSecond, "images_per_second": loop.last.ImagesPerSecond, "seconds": loop.last.Seconds})
}

// trainConfig builds the configuration from flags and from what the latents say.
func trainConfig(e *env, model dit.Config, latents *data.Latents, dev torch.Device) (training.Config, error) {
	c, m := e.flags, latents.Manifest()
	var cfg training.Config
	model.SetInput(m.Height, m.Width)
	model.InChannels = m.Channels
	model.NumClasses = len(latents.Classes())
	if n := c.Int("num-classes"); n != 0 {
		model.NumClasses = n
	}
	model.ClassDropoutProb = c.Float64("class-dropout-prob")
	if size := c.Int("image-size"); size != 0 && size != m.ImageSize {
		return cfg, fmt.Errorf("%s holds latents of %d-pixel images, --image-size asks for %d", c.String("data"), m.ImageSize, size)
	}
	cfg = training.Config{
		Model: model, ImageSize: m.ImageSize, GlobalBatchSize: c.Int("global-batch-size"), Epochs: c.Int("epochs"), MaxSteps: c.Int("max-steps"),
		LR: c.Float64("lr"), WarmupSteps: c.Int("warmup-steps"), LRSchedule: c.String("lr-schedule"), FinalLR: c.Float64("final-lr"),
		WeightDecay: c.Float64("weight-decay"), EMADecay: c.Float64("ema-decay"), MaxGradNorm: c.Float64("max-grad-norm"),
		FlipProb: c.Float64("flip-prob"), Precision: c.String("precision"), GlobalSeed: c.Uint64("global-seed"), Deterministic: c.Bool("deterministic"),
		LogEvery: c.Int("log-every"), CkptEvery: c.Int("ckpt-every"), SampleEvery: c.Int("sample-every"),
	}
	if cfg.FlipProb < 0 {
		cfg.FlipProb = 0
		if m.Flip {
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
	for name, v := range map[string]any{"image-size": cfg.ImageSize, "num-classes": model.NumClasses, "flip-prob": cfg.FlipProb, "precision": cfg.Precision} {
		if err := c.Set(name, fmt.Sprint(v)); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// openRunFolder makes the run folder, or opens the one to continue. resume is the checkpoint to start
// from, "" for none; last is the last record of what was trained before. Nothing in a folder changes
// before it is known that the run can go on. noStart says why a new run cannot begin, which does not
// concern one that goes on.
func openRunFolder(e *env, cfg training.Config, dev torch.Device, latents *data.Latents, hash string,
	noStart error) (folder *report.Run, resume string, last report.Step, err error) {
	c := e.flags
	fail := func(err error) (*report.Run, string, report.Step, error) { return nil, "", last, err }
	node, err := configNode(c, "resume", "run-dir")
	if err != nil {
		return fail(err)
	}
	o := report.Options{ResultsDir: c.String("results-dir"), Dir: c.String("run-dir"), Model: cfg.Model.Name(), Config: node, ConfigHash: hash,
		Command: os.Args, Libtorch: torch.BuildInfo(), Device: describeDevice(dev), Console: func(line string) { e.printf("%s", line) }}
	dir := o.Dir
	goOn := false
	switch c.String("resume") {
	case "none":
		if dir != "" && exists(filepath.Join(dir, "run.json")) {
			return fail(withHint(fmt.Errorf("run folder %s holds a run", dir), "--resume auto continues it"))
		}
	case "auto":
		if dir == "" {
			if dir, err = report.Latest(o.ResultsDir, hash); err != nil {
				return fail(err)
			}
		}
		if dir != "" && exists(filepath.Join(dir, "run.json")) {
			goOn = true
			if latest := filepath.Join(dir, "checkpoints", "latest"); exists(latest) {
				resume = latest
			}
		}
	default:
		goOn, resume = true, c.String("resume")
		if latest := filepath.Join(resume, "checkpoints", "latest"); exists(latest) {
			resume = latest
		}
		if dir == "" {
			if dir, err = runFolderOf(resume); err != nil {
				return fail(err)
			}
		}
	}
	if resume == "" && noStart != nil {
		return fail(noStart)
	}
	step, err := training.Check(cfg, latents, resume)
	if err != nil {
		return fail(err)
	}
	if !goOn {
		folder, err = report.Create(o)
		return folder, "", last, err
	}
	if folder, err = report.Resume(dir, step, o); err != nil {
		return fail(err)
	}
	if steps, err := report.ReadLog(filepath.Join(dir, "log.jsonl")); err == nil && len(steps) > 0 {
		last = steps[len(steps)-1]
	}
	return folder, resume, last, nil
}

// runFolderOf returns the run folder that a checkpoint folder belongs to.
func runFolderOf(checkpoint string) (string, error) {
	abs, err := filepath.Abs(checkpoint)
	if err != nil {
		return "", err
	}
	if dir := filepath.Dir(filepath.Dir(abs)); filepath.Base(filepath.Dir(abs)) == "checkpoints" && exists(filepath.Join(dir, "run.json")) {
		return dir, nil
	}
	return "", fmt.Errorf("resume from %s: want a checkpoint in a run folder, such as results/000-DiT-XL-2/checkpoints/latest", checkpoint)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// describeTraining says what was found, before work starts.
func (e *env) describeTraining(cfg training.Config, latents *data.Latents, dev torch.Device, dir string) {
	m := latents.Manifest()
	views := "one view"
	if m.Flip {
		views = "two views"
	}
	for _, row := range [][2]string{
		{"device", fmt.Sprintf("%s, %s", describeDevice(dev), torch.BuildInfo())},
		{"data", fmt.Sprintf("%s: %s latents of %dx%dx%d, %s, %s", e.flags.String("data"), format.Count(int64(latents.Len())), m.Channels, m.Height, m.Width, plural(len(latents.Classes()), "class"), views)},
		{"model", fmt.Sprintf("%s, %s, %.3g GMACs a forward pass", cfg.Model.Name(), plural(cfg.Model.NumTokens(), "token"), cfg.Model.MACs()/1e9)},
		{"recipe", fmt.Sprintf("batch %d, %s steps, lr %g %s, ema %g, %s", cfg.GlobalBatchSize, format.Count(int64(cfg.Steps(latents.Len()))), cfg.LR, cfg.LRSchedule, cfg.EMADecay, cfg.Precision)},
		{"run", dir},
	} {
		e.printf("%-8s%s", row[0], row[1])
	}
	if steps := cfg.Steps(latents.Len()); float64(steps)*(1-cfg.EMADecay) < 1 {
		e.warn("ema decay %g averages over some %.0f steps, the run has %s: its samples will be noise; a short run wants 0.99 or less",
			cfg.EMADecay, 1/(1-cfg.EMADecay), format.Count(int64(steps)))
	}
}

// A trainLog turns what the training loop reports into logs, bar and pictures.
type trainLog struct {
	env     *env
	folder  *report.Run
	preview *previewer
	bar     *progress.Bar
	before  time.Duration // trained before this process
	plotted time.Time
	last    report.Step
}

// plotInterval keeps the redrawing of the loss curve a small share of a run.
const plotInterval = 20 * time.Second

func (l *trainLog) start(numParams, first, total int) error {
	l.folder.Printf("DiT Parameters: %s", format.Count(int64(numParams)))
	if first > 0 {
		l.folder.Printf("Continuing from step %s", format.Count(int64(first)))
	}
	l.bar = l.env.progressOnTerminal("train", "steps", int64(total))
	l.bar.Start(int64(first))
	l.plotted = time.Now()
	return nil
}

func (l *trainLog) step(step int) { l.bar.Set(int64(step)) }

func (l *trainLog) log(r training.Record) error {
	perSecond := func(v float64) report.Number { return report.Number(v / r.Seconds) }
	l.last = report.Step{
		Step: r.Step, Epoch: r.Epoch, Loss: report.Number(r.Loss), MSE: report.Number(r.MSE), VB: report.Number(r.VB), GradNorm: report.Number(r.GradNorm),
		LR: report.Number(r.LR), StepsPerSecond: perSecond(float64(r.Steps)), ImagesPerSecond: perSecond(float64(r.Samples)), TFLOPS: perSecond(r.FLOPs / 1e12),
		DataWaitShare: perSecond(r.DataWaitSeconds), MemoryBytes: machine.Resident(), Seconds: report.Number(l.before.Seconds() + r.SecondsSinceStart),
	}
	l.bar.Describe(fmt.Sprintf("loss %.4f", r.Loss))
	if err := l.folder.Log(l.last); err != nil {
		return err
	}
	if time.Since(l.plotted) < plotInterval {
		return nil
	}
	l.plotted = time.Now()
	return l.folder.PlotLoss()
}

func (l *trainLog) sample(s *torch.Scope, ema *dit.DiT, step int) error {
	img, err := l.preview.draw(l.env.ctx, s, ema, step)
	if err != nil && l.env.ctx.Err() == nil {
		// A picture is no reason to lose a run: early averages can give none.
		l.folder.Printf("No preview of step %d: %v", step, err)
		return nil
	}
	if err != nil {
		return err
	}
	path, err := l.folder.Preview(step, img)
	if err == nil {
		l.folder.Printf("Saved preview to %s", path)
	}
	return err
}

func (l *trainLog) saved(path string, step int) { l.folder.Printf("Saved checkpoint to %s", path) }
