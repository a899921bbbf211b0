package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
)

func trainVAECommand() *cli.Command {
	d := vae.DefaultTrainConfig(vae.DefaultConfig())
	return newCommand(spec{
		name:  "train-vae",
		usage: "train an autoencoder on pictures",
		description: "Trains the autoencoder whose latents a DiT works on: reconstruction and\n" +
			"KL loss, the architecture of Stable Diffusion at any size. The result is\n" +
			"a folder as diffusers writes it, whose scaling factor is one over the\n" +
			"standard deviation of the latents. It saves as it goes, and the same command\n" +
			"continues what was cut short; an interrupt keeps a model too.",
		example: "ditrun train-vae --data pictures --out vae --image-size 64 --downsample 8 --max-steps 5000",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "data",
				Usage: "pictures at `PATH`: a folder, an archive, a pattern, or s3://bucket/key"},
			&cli.StringFlag{Name: "labels", Usage: "classes of pictures that are in no class folder, from `FILE`"},
			&cli.StringFlag{Name: "out", Usage: "write the model into `DIR`"},
			&cli.IntFlag{Name: "image-size", Value: 32, Usage: "`PIXELS` a side of the square crops"},
			&cli.IntFlag{Name: "latent-channels", Value: 4, Usage: "channels of the latents"},
			&cli.IntFlag{Name: "downsample", Value: 4,
				Usage: "side of a picture over side of its latent: 1, 2, 4, 8, ..."},
			&cli.StringFlag{Name: "block-out-channels", DefaultText: "16,32,64,...,64",
				Usage: "`WIDTHS` of the levels, finest first"},
			&cli.IntFlag{Name: "layers-per-block", Value: 1, Usage: "residual blocks of each level"},
			&cli.IntFlag{Name: "norm-num-groups", Value: 8,
				Usage: "groups of the normalisation; widths are multiples of it"},
			&cli.IntFlag{Name: "max-steps", Value: d.MaxSteps, Usage: "`N` steps"},
			&cli.IntFlag{Name: "batch-size", Value: d.BatchSize, Usage: "`N` pictures a step"},
			&cli.Float64Flag{Name: "lr", Value: d.LR, Usage: "learning rate after warm-up; it falls linearly"},
			&cli.StringFlag{Name: "loss", Value: d.Loss, Usage: "mse or l1"},
			&cli.Float64Flag{Name: "kl-weight", Value: d.KLWeight, Usage: "weight of the KL term"},
			&cli.Float64Flag{Name: "ema-decay", Value: d.EMADecay,
				Usage: "of an average of the weights to keep; 0 keeps the last weights"},
			&cli.Float64Flag{Name: "flip-prob", Value: 0.5, Usage: "share of mirrored pictures"},
			&cli.Uint64Flag{Name: "global-seed", Usage: "of weights, order and noise"},
			&cli.IntFlag{Name: "log-every", Value: 100, Usage: "steps between log lines"},
			&cli.IntFlag{Name: "ckpt-every", Value: 500, Usage: "steps between saves of the run"},
			&cli.StringFlag{Name: "resume", Value: "auto",
				Usage: "auto: continue the run in --out if there is one; or none"},
			&cli.IntFlag{Name: "num-workers", Value: 1, Usage: "`N` goroutines that decode pictures"},
			orientationFlag("exif turns pictures upright, as-stored leaves them"),
			onErrorFlag("fail names all bad pictures and ends, skip leaves them out"),
		},
		alone: true,
		run:   runTrainVAE,
	})
}

func runTrainVAE(e *env) error {
	c := e.flags
	if err := e.require("data", "out"); err != nil {
		return err
	}
	if err := e.atLeast(1, "image-size", "latent-channels", "downsample", "layers-per-block", "norm-num-groups",
		"max-steps", "batch-size", "log-every", "ckpt-every", "num-workers"); err != nil {
		return err
	}
	cfg, err := vaeTrainConfig(c)
	if err != nil {
		return ofFlag(err)
	}
	if p := c.Float64("flip-prob"); !(p >= 0 && p <= 1) {
		return usagef("--flip-prob %v: want 0 to 1", p)
	}
	if err := e.oneOf("resume", "none", "auto"); err != nil {
		return err
	}
	if err := e.pictureChoices(); err != nil {
		return err
	}
	out := c.String("out")
	if err := checkFolder(out); err != nil {
		return err
	}
	if err := outsideOf(c.String("data"), "out", out); err != nil {
		return err
	}
	state, err := e.findVAERun(out)
	if err != nil {
		return err
	}
	if state != nil {
		if err := state.Fits(cfg); err != nil {
			return withHint(err, "give the flags that it was started with, or another --out")
		}
	}
	src, err := e.openPictures(c.String("data"), c.String("labels"), e.orientation())
	if err != nil {
		return err
	}
	defer src.Close()
	enough := func() error {
		if src.Len() < cfg.BatchSize {
			return fmt.Errorf("%s has %s, fewer than a batch of %d", c.String("data"), plural(src.Len(), "picture"),
				cfg.BatchSize)
		}
		return nil
	}
	if err := enough(); err != nil {
		return err
	}
	dev, err := e.openDevice()
	if err != nil {
		return err
	}
	side := cfg.ImageSize / cfg.Model.Downsample()
	e.printf("device  %s, %s", describeDevice(dev), torch.BuildInfo())
	e.printf("data    %s: %s in %s", c.String("data"), plural(src.Len(), "picture"),
		plural(len(src.Classes()), "class"))
	e.printf("model   AutoencoderKL, %s parameters, %d-pixel pictures to latents of %dx%dx%d",
		format.Count(int64(cfg.Model.NumParams())), cfg.ImageSize, cfg.Model.LatentChannels, side, side)

	if state == nil || state.Data != e.vaeData(src) { // else they were checked when the run began
		found, err := e.checkPictures(src, 0, src.Len(), c.Int("num-workers"))
		if err != nil {
			return err
		}
		if src, err = e.leaveOut(src, found); err != nil {
			return err
		}
		if err := enough(); err != nil {
			return err
		}
	}
	lock, err := lockVAE(out)
	if err != nil {
		return err
	}
	defer lock.Remove()
	disk.SweepFolder(out)
	saves := vae.Saves{
		Dir: filepath.Join(out, vaeRun), Every: c.Int("ckpt-every"), Resume: state, Pauses: disk.Pauses(),
		Data:    e.vaeData(src),
		OnError: func(err error) { e.warn("%v; training goes on", err) },
	}
	steps, saved := 0, 0
	saves.OnSave = func(step int) { saved = step }
	var last vae.Losses
	if state != nil {
		steps = state.Step
		if state.Losses != nil {
			last = *state.Losses
		}
		if state.Data != saves.Data {
			e.warn("%s: these are not the pictures that the run began with, or others of them are left out, mirrored "+
				"or turned: it goes on with them", c.String("data"))
		}
		e.printf("Continuing from step %d", steps)
	}
	before := steps
	pictures := stream.ImageOptions{
		Size: picture.Square(cfg.ImageSize), Batch: cfg.BatchSize, Workers: c.Int("num-workers"), Seed: cfg.Seed,
		FlipProb: c.Float64("flip-prob"), StartStep: steps, MaxSteps: cfg.MaxSteps,
	}
	began := time.Now()
	bar := e.progressOnTerminal("train-vae", "steps", int64(cfg.MaxSteps))
	batches := batchesOf(stream.Images(e.ctx, src, pictures))
	model, err := vae.Train(e.ctx, dev, cfg, saves, batches, func(s vae.Step) {
		steps = s.Step
		bar.Set(int64(steps))
		if s.Losses != nil {
			last = *s.Losses
			rate := float64(s.Step-before) / time.Since(began).Seconds()
			e.printf("(step=%07d) Reconstruction: %.5f, KL: %.2f, Steps/Sec: %s", s.Step, last.Rec, last.KL,
				format.Rate(rate))
		}
	})
	if model == nil {
		if saved > 0 {
			err = withHint(err, "%s holds the run after %s; the same command with --resume auto continues it",
				saves.Dir, plural(saved, "step"))
		}
		return err
	}
	defer model.Close()
	if steps == 0 {
		return err // nothing was learned: there is nothing to keep
	}
	bar.Finish()
	interrupted := err

	// The rest takes seconds and makes the model usable, so an interrupt does not stop it.
	ctx := context.WithoutCancel(e.ctx)
	std, err := e.measure(ctx, model, src, pictures)
	if err != nil {
		return err
	}
	model.SetScalingFactor(1 / std)
	if err := disk.Retry(ctx, disk.Pauses(), func() error { return model.Save(out) }); err != nil {
		return withHint(err, "%s holds the run; the same command with --resume auto continues it", saves.Dir)
	}
	e.printf("latents have a standard deviation of %.4f: scaling_factor %.4f", std, 1/std)
	proof := filepath.Join(c.String("out"), "reconstructions.png")
	shows := "; " + proof + " shows pictures above what is left of them"
	if n, err := drawReconstructions(ctx, dev, model, src, cfg.ImageSize, proof); err != nil {
		return err
	} else if n == 0 {
		e.warn("no reconstructions.png: none of the pictures that were tried can be decoded")
		shows = ""
	}
	e.printf("written to %s%s", c.String("out"), shows)
	if interrupted != nil {
		return withHint(interrupted,
			"%s holds the model after %s of %s; it can be used, and --resume auto continues it",
			out, format.Count(int64(steps)), plural(cfg.MaxSteps, "step"))
	}
	if err := disk.RemoveFolder(saves.Dir); err != nil { // the model is there: what continues it has no use
		e.warn("%v", err)
	}
	return e.result(map[string]any{"out": c.String("out"), "loss": last.Rec, "kl": last.KL,
		"skipped": catalog.Missing(src), "scaling_factor": 1 / std, "seconds": time.Since(began).Seconds()})
}

// vaeRun is the folder in --out with what continues a run.
const vaeRun = "training"

// findVAERun finds the run in out that --resume asks for, nil where a new one begins. It refuses an out that holds
// a model, or a run that --resume does not ask for.
func (e *env) findVAERun(out string) (*vae.State, error) {
	dir := filepath.Join(out, vaeRun)
	state, err := vae.ReadState(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && state.Step == 0: // nothing was done yet
	case e.flags.String("resume") == "none":
		return nil, withHint(fmt.Errorf("--out %s: there is a run that was cut short (%s)", out, vaeRun),
			"--resume auto continues it; without %s a new one begins", dir)
	default:
		return state, withHint(err, "without %s a new run begins", dir)
	}
	for _, name := range []string{vae.WeightsName, vae.ConfigName} {
		if exists(filepath.Join(out, name)) {
			return nil, withHint(fmt.Errorf("--out %s: there is a model already (%s)", out, name),
				"choose another folder, or remove that one; latents and checkpoints made with a model need it")
		}
	}
	return nil, nil
}

// lockVAE makes the folder out and keeps other processes from training in it.
func lockVAE(out string) (*disk.Lock, error) {
	if err := os.MkdirAll(out, 0o777); err != nil {
		return nil, err
	}
	lock, err := disk.TryLock(filepath.Join(out, ".lock"))
	if errors.Is(err, disk.ErrLocked) {
		err = fmt.Errorf("--out %s: in use by another process", out)
	}
	return lock, err
}

func vaeTrainConfig(c *cli.Context) (vae.TrainConfig, error) {
	model, err := vae.SmallConfig(c.Int("image-size"), c.Int("latent-channels"), c.Int("downsample"))
	if err != nil {
		return vae.TrainConfig{}, err
	}
	if text := c.String("block-out-channels"); text != "" {
		var widths []int
		for _, w := range strings.Split(text, ",") {
			n, err := strconv.Atoi(strings.TrimSpace(w))
			if err != nil {
				return vae.TrainConfig{},
					fmt.Errorf("block-out-channels %q: want numbers separated by commas, such as 32,64,64", text)
			}
			widths = append(widths, n)
		}
		model = model.WithLevels(widths...)
		if got := model.Downsample(); got != c.Int("downsample") {
			return vae.TrainConfig{},
				fmt.Errorf("block-out-channels %s: %s, so a downsampling of %d; --downsample asks for %d", text,
					plural(len(widths), "level"), got, c.Int("downsample"))
		}
	}
	model.LayersPerBlock, model.NormNumGroups = c.Int("layers-per-block"), c.Int("norm-num-groups")
	cfg := vae.DefaultTrainConfig(model)
	cfg.ImageSize, cfg.MaxSteps, cfg.BatchSize = c.Int("image-size"), c.Int("max-steps"), c.Int("batch-size")
	cfg.LR, cfg.Loss, cfg.KLWeight, cfg.EMADecay = c.Float64("lr"), c.String("loss"), c.Float64("kl-weight"),
		c.Float64("ema-decay")
	cfg.Seed, cfg.LogEvery = c.Uint64("global-seed"), c.Int("log-every")
	return cfg, cfg.Validate()
}

// batchesOf gives the pixels of batches to package vae, which knows nothing of sources.
func batchesOf(batches iter.Seq2[*stream.ImageBatch, error]) iter.Seq2[*vae.Batch, error] {
	return func(yield func(*vae.Batch, error) bool) {
		for b, err := range batches {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(&vae.Batch{Pixels: b.Pix}, nil) {
				return
			}
		}
	}
}

// vaeData names the pictures of a run and what is done to them.
func (e *env) vaeData(src catalog.Source) string {
	text := fmt.Sprintf("%s, mirrored %v", src.Hash(), e.flags.Float64("flip-prob"))
	if e.orientation() == picture.ByEXIF {
		text += ", turned by EXIF"
	}
	return text
}

// measured is the number of pictures from which the scaling factor is taken, where there are more.
const measured = 4096

// measuredBatches are the pictures from which the scaling factor is taken: all, each once, or the first of the training
// o where there are many. Pictures that went bad since they were checked do not count.
func measuredBatches(ctx context.Context, src catalog.Source, o stream.ImageOptions) iter.Seq2[*stream.ImageBatch,
	error] {
	if src.Len() <= measured {
		o.KeepGoing = true
		return stream.ImageRange(ctx, src, 0, src.Len(), o)
	}
	o.StartStep, o.MaxSteps = 0, (measured+o.Batch-1)/o.Batch
	return stream.Images(ctx, src, o)
}

// measure returns the standard deviation of the latents of these pictures.
func (e *env) measure(ctx context.Context, model *vae.AutoencoderKL, src catalog.Source,
	o stream.ImageOptions) (float64,
	error) {
	total := min(src.Len(), measured)
	bar := e.progress("measure latents", "pictures", int64(total))
	counted := func(yield func(*stream.ImageBatch, error) bool) {
		done := 0
		for b, err := range measuredBatches(ctx, src, o) {
			if err == nil && len(b.IDs) == 0 {
				continue
			}
			if !yield(b, err) || err != nil {
				return
			}
			done = min(done+len(b.IDs), total)
			bar.Set(int64(done))
		}
	}
	std, err := vae.LatentStd(ctx, model, o.Size.Height, measured, batchesOf(counted))
	if err != nil {
		bar.Abort()
		return 0, err
	}
	bar.Set(int64(total))
	bar.Finish()
	return std, nil
}

// drawReconstructions writes a sheet of pictures, one of each class, above what the model makes of them, and returns
// their number. Pictures that cannot be read are passed over; where none can there is no sheet.
func drawReconstructions(ctx context.Context, dev torch.Device, model *vae.AutoencoderKL, src catalog.Source, size int,
	path string) (n int, err error) {
	const most, tries = 10, 100
	var pix []uint8
	var labels []string
	failed := 0
	for i, shown := 0, -1; i < src.Len() && len(labels) < most && failed < tries; i++ {
		label := src.Sample(i).Label
		if label == shown { // samples stand in order of label
			continue
		}
		img, err := src.Image(i)
		if err != nil {
			failed++
			continue
		}
		if img, err = picture.CenterCrop(img, picture.Square(size)); err != nil {
			return 0, err
		}
		pix = append(pix, img.Pix...)
		labels, shown = append(labels, src.Classes()[label]), label
	}
	if n = len(labels); n == 0 {
		return 0, nil
	}
	err = torch.Run(dev, func(s *torch.Scope) error {
		s = s.NoGrad()
		mean, _ := model.Encode(s, vae.Pixels(s, pix, n, size, size))
		made, err := sampling.Decode(ctx, s, model, mean, 1)
		pix = append(pix, made.Pix...)
		return err
	})
	if err != nil {
		return 0, err
	}
	images, err := sheet.Batch(pix, 2*n, size, size)
	if err != nil {
		return 0, err
	}
	drawn, err := sheet.Draw(images, append(labels, labels...), n, "")
	if err != nil {
		return 0, err
	}
	return n, sheet.WritePNG(path, drawn)
}
