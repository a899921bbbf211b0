package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/training"
)

// trainVAEOptions are the flags of train-vae.
type trainVAEOptions struct {
	pictures pictureOptions
	train    training.Options

	data   string
	resume string // auto or none
	saves  string // what the saves of the run take

	// The model.
	latentChannels, downsample, layersPerBlock, normNumGroups int
	blockOutChannels                                          string
}

func (o *trainVAEOptions) flags() []cli.Flag {
	c := &o.train.Config
	*c = vae.DefaultTrainConfig(vae.DefaultConfig())
	o.pictures.numWorkers = 1
	list := []cli.Flag{
		&cli.StringFlag{Name: "data", Destination: &o.data,
			Usage: "pictures at `PATH`: a folder, an archive, a pattern, or s3://bucket/key"},
		&cli.StringFlag{Name: "out", Destination: &o.train.OutDir, Usage: "write the model into `DIR`"},
		&cli.IntFlag{Name: "image-size", Destination: &c.ImageSize, Value: 32,
			Usage: "crop pictures to squares of `PIXELS` a side"},
		&cli.IntFlag{Name: "latent-channels", Destination: &o.latentChannels, Value: 4,
			Usage: "channels of the latents"},
		&cli.IntFlag{Name: "downsample", Destination: &o.downsample, Value: 4,
			Usage: "pixels a side that become one of the latent: 1, 2, 4, 8, ..."},
		&cli.StringFlag{Name: "block-out-channels", Destination: &o.blockOutChannels, DefaultText: "16,32,64,...,64",
			Usage: "`WIDTHS`: channels of the levels, finest first"},
		&cli.IntFlag{Name: "layers-per-block", Destination: &o.layersPerBlock, Value: 1,
			Usage: "residual blocks in each level"},
		&cli.IntFlag{Name: "norm-num-groups", Destination: &o.normNumGroups, Value: 8,
			Usage: "groups of the normalisation, which divide each width"},
		&cli.IntFlag{Name: "max-steps", Destination: &c.MaxSteps, Value: c.MaxSteps, Usage: "stop after `STEPS`"},
		&cli.IntFlag{Name: "batch-size", Destination: &c.BatchSize, Value: c.BatchSize, Usage: "pictures a step"},
		&cli.Float64Flag{Name: "lr", Destination: &c.LR, Value: c.LR,
			Usage: "learning rate of AdamW after warm-up; it then falls linearly"},
		&cli.StringFlag{Name: "loss", Destination: &c.Loss, Value: c.Loss,
			Usage: "`mse|l1`: loss of the reconstruction: squared or absolute error"},
		&cli.Float64Flag{Name: "kl-weight", Destination: &c.KLWeight, Value: c.KLWeight,
			Usage: "weight of the KL term in the loss"},
		&cli.Float64Flag{Name: "ema-decay", Destination: &c.EMADecay, Value: c.EMADecay,
			Usage: "decay a step of the average of the weights, which is kept; 0 keeps the last weights"},
		&cli.Float64Flag{Name: "flip-prob", Destination: &o.train.FlipProb, Value: 0.5,
			Usage: "`SHARE`: share of pictures that are mirrored, from 0 to 1"},
		precisionFlag(&o.train.Precision,
			"type of the arithmetic of reconstructions: fp32, tf32 or bf16; training is in fp32"),
		&cli.Uint64Flag{Name: "global-seed", Destination: &c.Seed, Usage: "seed of weights, order and noise"},
		&cli.IntFlag{Name: "log-every", Destination: &c.LogEvery, Value: 100,
			Usage: "`STEPS`: steps between log lines"},
		&cli.IntFlag{Name: "ckpt-every", Destination: &o.train.SaveEvery, Value: 500,
			Usage: "`STEPS`: steps between saves of the run"},
		&cli.StringFlag{Name: "resume", Destination: &o.resume, Value: "auto",
			Usage: "`auto|none`: auto continues the run in --out, none begins a new one"},
	}
	return append(append(list, o.pictures.unconditional()), o.pictures.flags("")...)
}

func (o *trainVAEOptions) check(func(string) bool) error {
	if err := require("train-vae", required{"data", o.data}, required{"out", o.train.OutDir}); err != nil {
		return err
	}
	if err := atLeast(1, "ckpt-every", o.train.SaveEvery); err != nil {
		return err
	}
	if err := atLeast(1, "num-workers", o.pictures.numWorkers); err != nil {
		return err
	}
	model, err := o.model()
	if err != nil {
		return ofFlag(err)
	}
	o.train.Config.Model = model
	if err := o.train.Validate(); err != nil {
		return ofFlag(err)
	}
	if err := oneOf("resume", o.resume, "none", "auto"); err != nil {
		return err
	}
	return o.pictures.check()
}

// model is the one that the flags describe.
func (o *trainVAEOptions) model() (vae.Config, error) {
	model, err := vae.SmallConfig(o.train.Config.ImageSize, o.latentChannels, o.downsample)
	if err != nil {
		return model, err
	}
	if text := o.blockOutChannels; text != "" {
		var widths []int
		for _, w := range strings.Split(text, ",") {
			n, err := strconv.Atoi(strings.TrimSpace(w))
			if err != nil {
				return model, fmt.Errorf("block-out-channels %q: want numbers separated by commas, such as 32,64,64",
					text)
			}
			widths = append(widths, n)
		}
		model = model.WithLevels(widths...)
		if got := model.Downsample(); got != o.downsample {
			return model, fmt.Errorf("block-out-channels %s: %s, so a downsampling of %d; --downsample asks for %d",
				text, plural(len(widths), "level"), got, o.downsample)
		}
	}
	model.LayersPerBlock, model.NormNumGroups = o.layersPerBlock, o.normNumGroups
	return model, nil
}

func trainVAECommand() *cli.Command {
	o := &trainVAEOptions{}
	return newCommand(spec{
		name:  "train-vae",
		usage: "train an autoencoder on pictures",
		description: "Trains the autoencoder whose latents a DiT works on: reconstruction and\n" +
			"KL loss, the architecture of Stable Diffusion at any size. The result is\n" +
			"a folder as diffusers writes it, whose scaling factor is one over the\n" +
			"standard deviation of the latents. It saves as it goes: the same command\n" +
			"continues a run that was cut short, and an interrupt leaves a usable model.",
		example:  "ditrun train-vae --data pictures --out vae --image-size 64 --downsample 8 --max-steps 5000",
		flags:    o.flags(),
		required: "data out",
		groups: []group{
			{"Pictures", "image-size flip-prob orientation labels unconditional on-error"},
			{"Model", "latent-channels downsample block-out-channels layers-per-block norm-num-groups"},
			{"Optimisation", "batch-size lr loss kl-weight ema-decay global-seed"},
			{"Length and saving", "max-steps ckpt-every resume log-every"},
			{"Speed", "precision num-workers"},
		},
		check: o.check,
		alone: true,
		run: func(e *env) error {
			return withLessMemory(runTrainVAE(e, o), "a smaller --batch-size or --block-out-channels takes less")
		},
	})
}

func runTrainVAE(e *env, o *trainVAEOptions) error {
	if err := o.checkFolders(); err != nil {
		return err
	}
	if err := o.findRun(); err != nil {
		return err
	}
	saves, err := o.checkRoom(e)
	if err != nil {
		return err
	}
	o.saves = saves
	closePictures, err := o.openPictures(e)
	if err != nil {
		return err
	}
	defer closePictures()
	account := newVAEAccount(e, o)
	o.train.OnStart = func() { o.describeResume(e) }
	o.train.OnStep, o.train.OnMeasure, o.train.OnCompare = account.showStep, account.showMeasuring,
		account.showComparing
	o.train.OnWarning = func(err error) { e.warn("%v", err) }
	o.train.Pauses = disk.Pauses()
	result, err := training.Run(e.ctx, o.train)
	if err != nil {
		return o.explain(err, result)
	}
	account.summarize(result)
	var psnr, meanError any // null where they were not measured
	if q := result.Quality; q.Pictures > 0 {
		psnr, meanError = q.PSNR, q.MeanError
	}
	return e.result(map[string]any{"out": o.train.OutDir, "loss": result.Losses.Rec, "kl": result.Losses.KL,
		"psnr": psnr, "mean_error": meanError, "verdict": result.Quality.Verdict(), "precision": o.train.Precision,
		"skipped": catalog.Missing(o.train.Source), "scaling_factor": 1 / result.LatentStd,
		"seconds": time.Since(account.began).Seconds()})
}

func (o *trainVAEOptions) checkFolders() error {
	if err := checkFolder("out", o.train.OutDir); err != nil {
		return err
	}
	return outsideOf(o.data, "out", o.train.OutDir)
}

// checkRoom compares what the saves of the run take with what is free: a save is written beside the one before, which
// is then removed. It returns in words what they take.
func (o *trainVAEOptions) checkRoom(e *env) (saves string, err error) {
	each := o.train.Config.SaveBytes()
	w := writing{flag: "out", path: o.train.OutDir, least: each, unit: "a save of the run takes"}
	if o.train.Resume == nil {
		w.least, w.unit = 2*each, "a save of the run and the one before it, which is removed afterwards, take"
	}
	free, err := e.checkRoom(w)
	return fmt.Sprintf("each %s, the last one kept%s", format.Bytes(each), free), err
}

// findRun finds the run in --out that --resume asks for, if there is one. It refuses an --out that holds a model, or a
// run that --resume does not ask for.
func (o *trainVAEOptions) findRun() error {
	out := o.train.OutDir
	dir := training.RunDir(out)
	state, err := vae.ReadState(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && state.Step == 0: // nothing was done yet
	case o.resume == "none":
		return withHint(fmt.Errorf("--out %s: there is a run that was cut short (%s)", out, filepath.Base(dir)),
			"--resume auto continues it; to begin a new one, remove %s", dir)
	case err != nil:
		return withHint(err, "to begin a new run, remove %s", dir)
	default:
		o.train.Resume = state
		return withHint(state.Fits(o.train.Config), "give the flags that it was started with, or another --out")
	}
	for _, name := range []string{vae.WeightsName, vae.ConfigName} {
		if exists(filepath.Join(out, name)) {
			return withHint(fmt.Errorf("--out %s: there is a model already (%s)", out, name),
				"choose another folder, or remove that one; latents and checkpoints made with a model need it")
		}
	}
	return nil
}

// openPictures opens the pictures and the device, prints what they are, and leaves out bad pictures, unless that was
// done when the run began. closePictures closes them.
func (o *trainVAEOptions) openPictures(e *env) (closePictures func(), err error) {
	src, err := o.pictures.open(e, o.data)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			src.Close()
		}
	}()
	t := &o.train
	t.Source, t.NumWorkers = src, o.pictures.numWorkers
	if err := o.enough(); err != nil {
		return nil, err
	}
	if t.Device, err = e.openDevice(); err != nil {
		return nil, err
	}
	t.Precision = t.Precision.On(t.Device)
	o.describe(e)
	if t.Resume == nil || t.Resume.Data != t.DataName() {
		found, err := o.pictures.findBad(e, src, 0, src.Len(), 1)
		if err != nil {
			return nil, err
		}
		if t.Source, err = o.pictures.leaveOut(e, src, found); err != nil {
			return nil, err
		}
		if err := o.enough(); err != nil {
			return nil, err
		}
	}
	return func() { src.Close() }, nil
}

// enough wants as many pictures as a batch has.
func (o *trainVAEOptions) enough() error {
	if n, batch := o.train.Source.Len(), o.train.Config.BatchSize; n < batch {
		return fmt.Errorf("%s has %s, fewer than a batch of %d", o.data, plural(n, "picture"), batch)
	}
	return nil
}

// describe prints what was found, before the work starts.
func (o *trainVAEOptions) describe(e *env) {
	src, c := o.train.Source, &o.train.Config
	side := c.ImageSize / c.Model.Downsample()
	e.printf("device  %s, %s", describeDevice(o.train.Device), torch.BuildInfo())
	e.itemOf("data", o.data, plural(src.Len(), "picture")+" "+inClasses(src.Classes()))
	e.item("model", fmt.Sprintf("AutoencoderKL, %s, %d-pixel pictures to latents of %dx%dx%d",
		plural(c.Model.NumParams(), "parameter"), c.ImageSize, c.Model.LatentChannels, side, side))
	e.item("recipe", fmt.Sprintf("batch %d, %s, lr %g, %s loss, KL weight %g, ema %g", c.BatchSize,
		plural(c.MaxSteps, "step"), c.LR, c.Loss, c.KLWeight, c.EMADecay))
	e.printf("        seed %d, %g %% of the pictures mirrored", c.Seed, 100*o.train.FlipProb)
	e.printf("        trained in fp32, reconstructions in %s", o.train.Precision)
	e.item("saves", o.saves)
}

// describeResume says where a run goes on.
func (o *trainVAEOptions) describeResume(e *env) {
	state := o.train.Resume
	if state == nil {
		return
	}
	if state.Data != o.train.DataName() {
		e.warn("%s: these are not the pictures that the run began with, or others of them are left out, mirrored "+
			"or turned: it goes on with them", o.data)
	}
	e.printf("Continuing from step %d", state.Step)
}

// explain adds to the error of a run what is left of it.
func (o *trainVAEOptions) explain(err error, r training.Result) error {
	out, saved := o.train.OutDir, r.Saved
	if o.train.Resume != nil {
		saved = max(saved, o.train.Resume.Step)
	}
	switch {
	case errors.As(err, new(*training.InUseError)):
		return fmt.Errorf("--out %w", err)
	case r.LatentStd > 0:
		return withHint(err, "%s holds the model after %s of %s; it can be used, and --resume auto continues it",
			out, format.Count(int64(r.Steps)), plural(o.train.Config.MaxSteps, "step"))
	case saved > 0:
		return withHint(err, "%s holds the run after %s; the same command with --resume auto continues it",
			training.RunDir(out), plural(saved, "step"))
	}
	return err
}
