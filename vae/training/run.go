// Package training trains an autoencoder on a source of pictures: it joins the packages below data, which read and crop
// pictures, with package vae, which computes the steps. [Run] leaves a model that package encode, and every program
// that reads diffusers' folders, can open:
//
//	src, err := catalog.Open(ctx, "pictures", catalog.Options{})
//	...
//	config, err := vae.SmallConfig(64, 4, 8) // 64 pixels a side, latents of 4 channels, an eighth of the side
//	...
//	result, err := training.Run(ctx, training.Options{
//		Config: vae.DefaultTrainConfig(config), Source: src, Device: torch.CPU, OutDir: "vae", FlipProb: 0.5,
//	})
//
// The folder of a run that was cut short is [RunDir]; a later Run continues it, with [Options].Resume of vae.ReadState.
package training

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// Options says what to train, on what, and where to keep it. Config, Source and OutDir are required.
type Options struct {
	Config vae.TrainConfig
	Source catalog.Source // whose pictures can all be decoded, see stream.CheckPictures
	Device torch.Device
	OutDir string

	// Precision of the reconstructions that are compared: fp32, tf32 or bf16; "" means tf32 on CUDA, else fp32.
	// Training, and the standard deviation of the latents, are in fp32.
	Precision  nn.Precision
	FlipProb   float64 // the share of pictures that are mirrored
	NumWorkers int     // goroutines that decode; 0 means up to 4
	SaveEvery  int     // steps between two saves of the run; 0 means only at its start and end
	// Resume is the save that the run goes on from, nil to begin.
	Resume *vae.State
	// Pauses before new tries of a save that failed for a reason which may pass.
	Pauses []time.Duration

	// OnStart is called once no other process can train in OutDir, before the first step.
	OnStart func()
	// OnStep, which may be nil, is called after each step.
	OnStep func(vae.Step)
	// OnMeasure, which may be nil, is told how many pictures the scaling factor was measured on, from none to all.
	OnMeasure func(done, total int)
	// OnCompare, which may be nil, is told of how many pictures Quality was measured, from none to all.
	OnCompare func(done, total int)
	// OnWarning, which may be nil, is told what went wrong and does not end the run.
	OnWarning func(error)
}

// A Result says what a run came to.
type Result struct {
	Steps  int        // that were done, those before Resume included
	Saved  int        // the step of the last save that this run made, 0 for none
	Losses vae.Losses // the last that were read
	// LatentStd is the standard deviation of the latents, one over the scaling factor of the model. It is 0 where no
	// model was written.
	LatentStd float64
	// Quality of the model, measured on pictures that it was trained on; of none where ctx ended the run.
	Quality Quality
	// Reconstructions counts the pictures that [ReconstructionsName] shows.
	Reconstructions int
}

// RunDir is the folder in the output folder that holds what continues a run. It is removed with the end of the run.
func RunDir(out string) string { return filepath.Join(out, "training") }

// Validate returns an error for the first setting whose value is not allowed; it begins with the name of its flag.
func (o *Options) Validate() error {
	if err := o.Config.Validate(); err != nil {
		return err
	}
	if !(o.FlipProb >= 0 && o.FlipProb <= 1) {
		return fmt.Errorf("flip-prob %v: want 0 to 1", o.FlipProb)
	}
	return cmp.Or(o.Precision, nn.FP32).Validate()
}

// DataName names the pictures of a run and what is done to them, as [vae.State] keeps it.
func (o *Options) DataName() string {
	text := fmt.Sprintf("%s, mirrored %v", o.Source.Hash(), o.FlipProb)
	if catalog.OrientationOf(o.Source) == picture.ByEXIF {
		text += ", turned by EXIF"
	}
	return text
}

// Run trains a model and writes it into OutDir, with the scaling factor that its latents ask for and a sheet of
// pictures beside their reconstructions. It keeps other processes out of OutDir, which it makes.
//
// It saves the run as it goes. When ctx ends, Run also writes the model as it is, without a sheet, and returns the
// error of ctx; RunDir then continues the run. So it does after another error, which leaves no model. That
// reconstructions cannot be compared or drawn is a warning.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Source == nil || o.OutDir == "" {
		return Result{}, errors.New("train VAE: options: Source and OutDir are required")
	}
	if err := o.Validate(); err != nil {
		return Result{}, fmt.Errorf("train VAE: %w", err)
	}
	o.setDefaults()
	lock, err := lockFolder(o.OutDir)
	if err != nil {
		return Result{}, err
	}
	defer lock.Remove()
	disk.SweepFolder(o.OutDir)
	o.OnStart()
	var r Result
	model, err := o.train(ctx, &r)
	if model == nil {
		return r, err
	}
	defer model.Close()
	if r.Steps == 0 {
		return r, err // nothing was learned: there is nothing to keep
	}
	// This makes the model usable, so an interrupt does not stop it.
	if err := o.keep(context.WithoutCancel(ctx), model, &r); err != nil {
		return r, err
	}
	if err == nil {
		err = o.compare(ctx, model, &r)
	}
	if err != nil {
		return r, err
	}
	if err := disk.RemoveFolder(RunDir(o.OutDir)); err != nil { // the model is there: what continues it has no use
		o.OnWarning(err)
	}
	return r, nil
}

func (o *Options) setDefaults() {
	if o.OnStart == nil {
		o.OnStart = func() {}
	}
	if o.OnStep == nil {
		o.OnStep = func(vae.Step) {}
	}
	if o.OnMeasure == nil {
		o.OnMeasure = func(int, int) {}
	}
	if o.OnCompare == nil {
		o.OnCompare = func(int, int) {}
	}
	if o.OnWarning == nil {
		o.OnWarning = func(error) {}
	}
}

// lockFolder makes a folder and keeps other processes from training in it.
func lockFolder(dir string) (*disk.Lock, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	lock, err := disk.TryLock(filepath.Join(dir, ".lock"))
	if errors.Is(err, disk.ErrLocked) {
		return nil, &InUseError{dir}
	}
	return lock, err
}

// InUseError says that another process trains in a folder.
type InUseError struct{ Dir string }

func (e *InUseError) Error() string { return e.Dir + ": in use by another process" }

// train does the steps. The model is nil after an error that is not that of ctx.
func (o *Options) train(ctx context.Context, r *Result) (*vae.AutoencoderKL, error) {
	saves := vae.Saves{
		Dir: RunDir(o.OutDir), Every: o.SaveEvery, Resume: o.Resume, Pauses: o.Pauses, Data: o.DataName(),
		OnError: func(err error) { o.OnWarning(fmt.Errorf("%w; training goes on", err)) },
		OnSave:  func(step int) { r.Saved = step },
	}
	if o.Resume != nil {
		r.Steps = o.Resume.Step
		if o.Resume.Losses != nil {
			r.Losses = *o.Resume.Losses
		}
	}
	batches := Batches(stream.Images(ctx, o.Source, o.pictures(r.Steps)))
	return vae.Train(ctx, o.Device, o.Config, saves, batches, func(s vae.Step) {
		r.Steps = s.Step
		if s.Losses != nil {
			r.Losses = *s.Losses
		}
		o.OnStep(s)
	})
}

// pictures are the batches that training takes from a step on.
func (o *Options) pictures(step int) stream.ImageOptions {
	return stream.ImageOptions{Size: picture.Square(o.Config.ImageSize), Batch: o.Config.BatchSize,
		Workers: o.NumWorkers, Seed: o.Config.Seed, FlipProb: o.FlipProb, StartStep: step, MaxSteps: o.Config.MaxSteps}
}

// keep makes the model usable and writes it.
func (o *Options) keep(ctx context.Context, model *vae.AutoencoderKL, r *Result) error {
	std, err := o.measure(ctx, model)
	if err != nil {
		return err
	}
	model.SetScalingFactor(1 / std)
	if err := disk.Retry(ctx, o.Pauses, func() error { return model.Save(o.OutDir) }); err != nil {
		return err
	}
	r.LatentStd = std
	return nil
}

// compare measures the quality of a model that is written and draws the sheet. The model can be used without these, so
// only the error of ctx is one.
func (o *Options) compare(ctx context.Context, model *vae.AutoencoderKL, r *Result) (err error) {
	r.Quality, err = MeasureQuality(ctx, model, o.Precision, o.Source, o.Config.ImageSize, o.Config.BatchSize,
		o.OnCompare)
	if err == nil {
		r.Reconstructions, err = o.drawReconstructions(ctx, model, r.Quality)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil && r.Reconstructions == 0 {
		err = errors.New("none of the pictures that were tried can be decoded")
	}
	if err != nil {
		o.OnWarning(fmt.Errorf("no %s: %w", ReconstructionsName, err))
	}
	return nil
}

// Batches gives the pixels of batches to package vae, which knows nothing of sources.
func Batches(batches iter.Seq2[*stream.ImageBatch, error]) iter.Seq2[*vae.Batch, error] {
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
