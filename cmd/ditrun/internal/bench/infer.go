package bench

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/encode"
)

// guidance is the scale of guided sampling. Its value has no effect on the time.
const guidance = 4

// Sample measures a sampling step: a round draws the latents of a batch in so many steps. Guidance, which doubles the
// batch that goes through the model, is on where the model can be guided. Each round draws the same classes: what is
// computed once a class, and the capture of a graph, are in a round that does not count.
func (j *Job) Sample(ctx context.Context) (f Figures, err error) {
	err = j.run(func(s *torch.Scope) error {
		weights, err := j.model(s)
		if err != nil {
			return err
		}
		defer nn.Close(weights)
		m := weights.As(s, j.Precision.DType())
		cfg, passes := m.Config(), 1.0
		n := j.NumSteps() / j.Steps * j.Batch
		r := sampling.Request{Steps: strconv.Itoa(j.Steps), BatchSize: j.Batch, Warn: j.Warn}
		if cfg.HasClass() {
			for i := range n {
				r.Labels = append(r.Labels, int(randomLabel(cfg, i%j.Batch)))
			}
		} else {
			r.NumSamples = n
		}
		if cfg.HasClass() && cfg.ClassDropoutProb > 0 {
			r.CFGScale, passes = guidance, 2
		}
		var rounds []float64
		var watch *stopwatch
		var profileErr error
		defer func() {
			if watch != nil { // it was stopped by an error
				watch.stop()
			}
		}()
		j.resetPeak()
		start := time.Now()
		r.Progress = func(done, _ int) {
			if j.progress(done); done%j.Steps != 0 {
				return
			}
			s.Synchronize()
			if w := watch; w != nil {
				watch = nil
				f.Profile, profileErr = w.stop()
			} else if done > j.WarmUp()*j.Steps {
				rounds = append(rounds, time.Since(start).Seconds()/float64(j.Steps))
			}
			if j.Profiled && done == (j.WarmUp()+j.Rounds)*j.Steps {
				watch, profileErr = j.profile()
			}
			start = time.Now()
		}
		_, err = sampling.Latents(ctx, s, m, r)
		if err = cmp.Or(err, profileErr); err == nil {
			profile := f.Profile
			f = NewFigures("sample", j.Batch, rounds).peak(j).arithmetic(j, passes*2*cfg.MACs()*float64(j.Batch))
			f.Profile = profile
		}
		return err
	})
	return f, err
}

// Encode measures the encoding of a batch of pictures, from bytes to moments in host memory, as `ditrun encode-latents`
// does with what it has decoded and cropped, without mirrored pictures.
func (j *Job) Encode(ctx context.Context) (f Figures, err error) {
	pix, size := j.pixels(j.Batch), j.ImageSize
	err = j.coding(func(s *torch.Scope, v *vae.AutoencoderKL) error {
		v = v.As(s, j.Precision.DType())
		f, err = j.measure(ctx, s, "encode", j.eachStep(ctx, s, func(s *torch.Scope) error {
			encode.Moments(s, v, vae.Pixels(s, pix, j.Batch, size.Height, size.Width))
			return nil
		}))
		if err == nil {
			macs := v.Config().EncodeMACs(size.Height, size.Width)
			f = f.arithmetic(j, 2*macs*float64(j.Batch))
		}
		return err
	})
	return f, err
}

// Decode measures the decoding of a batch of latents into bytes in host memory, as `ditrun sample` does.
func (j *Job) Decode(ctx context.Context) (f Figures, err error) {
	size := j.ImageSize
	err = j.coding(func(s *torch.Scope, v *vae.AutoencoderKL) error {
		v, cfg := v.As(s, j.Precision.DType()), v.Config()
		z := s.PhiloxNormal(1, philox.TagStartNoise, s.Zeros(torch.Int64, 1), s.Arange(j.Batch, torch.Int64),
			cfg.LatentChannels, size.Height/cfg.Downsample(), size.Width/cfg.Downsample())
		f, err = j.measure(ctx, s, "decode", j.eachStep(ctx, s, func(s *torch.Scope) error {
			_, err := sampling.Decode(ctx, s, v, z, cfg.ScalingFactor)
			return err
		}))
		if err == nil {
			macs := cfg.DecodeMACs(size.Height, size.Width)
			f = f.arithmetic(j, 2*macs*float64(j.Batch))
		}
		return err
	})
	return f, err
}

// coding calls f with the autoencoder and a scope in the precision of the job.
func (j *Job) coding(f func(s *torch.Scope, v *vae.AutoencoderKL) error) error {
	v, err := j.autoencoder()
	if err != nil {
		return err
	}
	defer v.Close()
	return j.run(func(s *torch.Scope) error { return f(s, v) })
}

// Load measures how long it takes to open a checkpoint and to have its weights on the device. One that this makes is
// in the file system's cache then. A round is one load.
func (j *Job) Load(ctx context.Context) (f Figures, err error) {
	var path, name string
	if j.Weights != nil {
		path, name = j.Weights.Path, j.Weights.Config.Name()
	} else {
		dir, err := os.MkdirTemp("", "ditrun-bench-")
		if err != nil {
			return f, err
		}
		defer os.RemoveAll(dir)
		path = filepath.Join(dir, saves.EMAName)
		if err := j.save(path); err != nil {
			return f, err
		}
	}
	file, err := os.Stat(path)
	if err != nil {
		return f, err
	}
	var rounds []float64
	j.resetPeak()
	for i := range j.Rounds + 1 {
		if ctx.Err() != nil {
			return f, context.Cause(ctx)
		}
		seconds, err := j.loadOnce(path, name)
		if err != nil {
			return f, err
		}
		if i > 0 {
			rounds = append(rounds, seconds)
		}
		j.progress(i + 1)
	}
	f = NewFigures("load", 0, rounds).peak(j)
	f.Bytes = file.Size()
	return f, nil
}

func (j *Job) loadOnce(path, model string) (seconds float64, err error) {
	err = j.run(func(s *torch.Scope) error {
		start := time.Now()
		w, err := dit.Read(path, model)
		if err != nil {
			return err
		}
		defer w.Close()
		m, err := w.Load(s)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		s.Synchronize()
		seconds = time.Since(start).Seconds()
		return nil
	})
	return seconds, err
}

// save writes a made-up model.
func (j *Job) save(path string) error {
	return torch.Run(torch.CPU, func(s *torch.Scope) error {
		m, err := j.model(s.NoGrad())
		if err != nil {
			return err
		}
		defer nn.Close(m)
		if err := m.Save(path, dit.Info{ImageSize: j.ImageSize.Height, ScalingFactor: 1}); err != nil {
			return fmt.Errorf("write a checkpoint to load: %w", err)
		}
		return nil
	})
}
