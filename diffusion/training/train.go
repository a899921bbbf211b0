package training

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/philox"
)

// A Record is what is known at a log step, averaged over the steps since the last one.
type Record struct {
	Step, Epoch       int // steps done, epoch from 0
	Loss, MSE, VB     float64
	GradNorm          float64 // before clipping
	LR                float64
	Seconds           float64 // since the last record
	Steps, Samples    int     // in it
	DataWaitSeconds   float64 // in it
	FLOPs             float64 // of the model's arithmetic in it: 3 forward passes of 2 MACs a sample
	StepsTotal        int
	SecondsSinceStart float64
}

// Hooks are called on the training goroutine; nil ones are skipped. An error ends the run.
type Hooks struct {
	Start   func(numParams, firstStep, totalSteps int) error
	Step    func(step int)                                     // after each step
	Log     func(Record) error                                 // every LogEvery steps and at the end
	Preview func(s *torch.Scope, ema *dit.DiT, step int) error // every SampleEvery steps and at the end
	Saved   func(path string, step int)                        // after a checkpoint was written
}

// Result says how a run ended.
type Result struct {
	Step       int    // steps done in all
	Checkpoint string // the last one written
}

// Run trains on latents and writes checkpoints below dir, from the beginning or, if resume names a
// checkpoint, from there. When ctx is cancelled it saves a checkpoint and returns ctx's error.
func Run(ctx context.Context, dev torch.Device, cfg Config, latents *data.Latents, dir, resume string, hooks Hooks) (Result, error) {
	var result Result
	if err := cfg.check(latents); err != nil {
		return result, err
	}
	err := torch.Run(dev, func(s *torch.Scope) error {
		r, err := newRunner(s, cfg, cfg.Steps(latents.Len()))
		if err != nil {
			return err
		}
		defer r.close()
		r.latents, r.dir, r.hooks = latents, dir, hooks
		if resume != "" {
			if err := r.load(s, resume); err != nil {
				return err
			}
		}
		err = r.train(ctx, s)
		result = r.result
		return err
	})
	return result, err
}

// check holds the configuration against the latents.
func (c Config) check(latents *data.Latents) error {
	if err := c.Validate(); err != nil {
		return err
	}
	m := latents.Manifest()
	switch {
	case m.Channels != c.Model.InChannels || m.Height != c.Model.InputSize || m.Width != c.Model.Width():
		return fmt.Errorf("latents are %dx%dx%d, the model wants %dx%dx%d", m.Channels, m.Height, m.Width, c.Model.InChannels, c.Model.InputSize, c.Model.Width())
	case len(latents.Classes()) > c.Model.NumClasses:
		return fmt.Errorf("latents have %d classes, the model has %d", len(latents.Classes()), c.Model.NumClasses)
	case latents.Len() < c.GlobalBatchSize:
		return fmt.Errorf("global batch size %d is larger than the data set of %d samples", c.GlobalBatchSize, latents.Len())
	case c.FlipProb > 0 && !m.Flip:
		return fmt.Errorf("flip probability %v, but the latents hold no mirrored view: encode them with --flip both, or train without flips", c.FlipProb)
	case !(m.VAE.ScalingFactor > 0):
		return fmt.Errorf("latents have a scaling factor of %v, want a positive number", m.VAE.ScalingFactor)
	}
	return nil
}

// A runner is a run in progress.
type runner struct {
	cfg      Config
	latents  *data.Latents
	dir      string
	hooks    Hooks
	process  *diffusion.Diffusion
	model    *dit.DiT
	ema      *dit.DiT // the model on the averaged weights
	averages []nn.Param
	opt      *optim.AdamW
	total    int           // steps of the whole run
	step     int           // steps done
	sums     *torch.Tensor // [4] since the last record: loss, mse, vb, gradient norm
	window   window
	result   Result
}

// A window counts since the last record.
type window struct {
	started time.Time
	steps   int
	wait    float64
}

// newRunner makes a run of total steps with new weights.
func newRunner(s *torch.Scope, cfg Config, total int) (*runner, error) {
	r := &runner{cfg: cfg, total: total}
	var err error
	if r.process, err = diffusion.New(""); err != nil {
		return nil, err
	}
	torch.SetTF32(cfg.Precision == "tf32")
	if cfg.Deterministic {
		torch.SetDeterministic(true)
	}
	gen, err := torch.NewGenerator(torch.CPU, cfg.GlobalSeed)
	if err != nil {
		return nil, err
	}
	if r.model, err = dit.New(s, cfg.Model); err != nil {
		return nil, err
	}
	if cfg.Init == nil {
		r.model.Init(s, gen)
	} else if err := nn.Load(s, r.model, cfg.Init, false); err != nil {
		nn.Close(r.model)
		return nil, fmt.Errorf("initial weights: %w", err)
	}
	if cfg.Precision == "bf16" {
		r.model.SetPrecision(torch.BFloat16)
	}
	adamw := optim.DefaultConfig
	adamw.WeightDecay = cfg.WeightDecay
	if r.opt, err = optim.NewAdamW(nn.List(r.model), adamw, optim.Sharding{}); err != nil {
		nn.Close(r.model)
		return nil, err
	}
	r.averages = r.opt.EMA(s)
	for _, p := range r.averages {
		torch.Persist(p.Tensor)
	}
	r.ema = r.model.With(r.averages)
	r.sums = torch.Persist(s.Zeros(torch.Float32, 4))
	return r, nil
}

func (r *runner) close() {
	r.sums.Close()
	for _, p := range r.averages {
		p.Tensor.Close()
	}
	r.opt.Close()
	nn.Close(r.model)
}

func (r *runner) train(ctx context.Context, s *torch.Scope) error {
	if r.hooks.Start != nil {
		if err := r.hooks.Start(nn.NumParams(r.model), r.step, r.total); err != nil {
			return err
		}
	}
	began := time.Now()
	r.window.started = began
	epoch := max(r.step-1, 0) / (r.latents.Len() / r.cfg.GlobalBatchSize) // of the last step done
	batches := r.latents.Batches(ctx, data.BatchOptions{Seed: r.cfg.GlobalSeed, GlobalBatch: r.cfg.GlobalBatchSize, StartStep: r.step, MaxSteps: r.total, FlipProb: r.cfg.FlipProb, Workers: 1})
	for b, err := range batches {
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			return err
		}
		epoch = b.Epoch
		if err := s.Try(func(s *torch.Scope) error { r.update(s, b); return nil }); err != nil {
			return fmt.Errorf("step %d: %w", r.step+1, err)
		}
		r.step++
		r.window.steps++
		r.window.wait += b.WaitSeconds
		if r.hooks.Step != nil {
			r.hooks.Step(r.step)
		}
		last := r.step == r.total
		if last || r.step%r.cfg.LogEvery == 0 {
			if err := r.record(epoch, began); err != nil {
				return err
			}
		}
		if last || r.step%r.cfg.CkptEvery == 0 {
			if err := r.save(s, epoch); err != nil {
				return err
			}
		}
		if r.cfg.SampleEvery > 0 && r.hooks.Preview != nil && (last || r.step%r.cfg.SampleEvery == 0) {
			paused := time.Now()
			err := s.Try(func(s *torch.Scope) error { return r.hooks.Preview(s.NoGrad(), r.ema, r.step) })
			if err != nil && ctx.Err() == nil { // a preview cut short by ctx is no failure: save first
				return err
			}
			r.window.started = r.window.started.Add(time.Since(paused)) // previews do not count as training time
		}
		if ctx.Err() != nil {
			break
		}
	}
	if r.step < r.total && ctx.Err() != nil {
		if r.step > 0 && r.step%r.cfg.CkptEvery != 0 {
			if err := r.save(s, epoch); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	}
	return nil
}

// update makes one training step on b.
func (r *runner) update(s *torch.Scope, b *data.Batch) {
	x0, noise, t, y := r.inputs(s, b)
	r.apply(s, x0, noise, t, y)
}

// apply trains on latents x0 and noise [N, C, I, I] at timesteps t under labels y [N].
func (r *runner) apply(s *torch.Scope, x0, noise *torch.Tensor, t []int, y *torch.Tensor) {
	losses := r.process.TrainingLosses(s, func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		return r.model.Forward(s, x, t, dit.Condition{Labels: y})
	}, x0, noise, t)
	loss := s.Mean(losses.Total)
	s.Backward(loss)
	norm := r.opt.Step(s, optim.StepOptions{LR: r.cfg.learningRate(r.step, r.total), MaxNorm: r.cfg.MaxGradNorm, EMADecay: r.cfg.EMADecay}).Norm

	// Sums stay on the device: reading a loss each step would wait for it.
	s = s.NoGrad()
	mse, vb := s.Mean(losses.MSE), s.Zeros(torch.Float32)
	if losses.VB != nil {
		vb = s.Mean(losses.VB)
	}
	terms := s.Stack([]*torch.Tensor{s.Detach(loss), s.Detach(mse), s.Detach(vb), norm}, 0)
	s.Copy_(r.sums, s.Add(r.sums, terms))
}

// inputs draws what the samples of b are trained with: latents x0 [N, C, I, I] from their posteriors,
// noise, timesteps and labels [N], some of which are dropped for the null class.
func (r *runner) inputs(s *torch.Scope, b *data.Batch) (x0, noise *torch.Tensor, t []int, y *torch.Tensor) {
	cfg, m, n := r.cfg, r.latents.Manifest(), len(b.Labels)
	indices := make([]int64, n)
	labels := make([]int64, n)
	t = make([]int, n)
	for i := range n {
		index := uint64(b.Step)*uint64(cfg.GlobalBatchSize) + uint64(i)
		indices[i] = int64(index)
		t[i] = philox.Intn(diffusion.TrainSteps, cfg.GlobalSeed, philox.TagTimestep, 0, index)
		labels[i] = b.Labels[i]
		if philox.Uniform(cfg.GlobalSeed, philox.TagLabelDrop, 0, index) < cfg.Model.ClassDropoutProb {
			labels[i] = int64(cfg.Model.NullClass())
		}
	}
	s = s.NoGrad()
	moments := torch.From(s, b.Moments, n, 2*m.Channels, m.Height, m.Width)
	parts := s.Chunk(moments, 2, 1)
	mean, logVar := parts[0], parts[1]
	posterior := s.PhiloxNormal(cfg.GlobalSeed, philox.TagPosterior, 0, indices, m.Channels, m.Height, m.Width)
	x0 = s.MulScalar(s.Addcmul(mean, s.Exp(s.MulScalar(logVar, 0.5)), posterior), m.VAE.ScalingFactor)
	noise = s.PhiloxNormal(cfg.GlobalSeed, philox.TagStartNoise, 0, indices, m.Channels, m.Height, m.Width)
	return x0, noise, t, torch.From(s, labels, n)
}

// record reads the sums and reports them. A loss that is no number ends the run.
func (r *runner) record(epoch int, began time.Time) error {
	sums := torch.Data[float32](r.sums) // waits for the device
	now := time.Now()
	w := r.window
	seconds := now.Sub(w.started).Seconds()
	r.window = window{started: now}
	r.sums.CopyFromBytes(make([]byte, 16))
	mean := func(i int) float64 { return float64(sums[i]) / float64(w.steps) }
	if !finite(mean(0)) || !finite(mean(3)) {
		return fmt.Errorf("step %d: the loss or a gradient is not a finite number (loss %v, gradient norm %v): lower the learning rate or set a gradient norm limit, and continue from the last checkpoint", r.step, mean(0), mean(3))
	}
	if r.hooks.Log == nil {
		return nil
	}
	return r.hooks.Log(Record{
		Step: r.step, Epoch: epoch, Loss: mean(0), MSE: mean(1), VB: mean(2), GradNorm: mean(3),
		LR: r.cfg.learningRate(r.step-1, r.total), Seconds: seconds, Steps: w.steps, Samples: w.steps * r.cfg.GlobalBatchSize, DataWaitSeconds: w.wait,
		FLOPs:      3 * 2 * r.cfg.Model.MACs() * float64(r.cfg.GlobalBatchSize) * float64(w.steps),
		StepsTotal: r.total, SecondsSinceStart: now.Sub(began).Seconds(),
	})
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
