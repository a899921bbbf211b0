package training

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
)

// A Job is a run to make. Device, Config, Source and Dir are required.
type Job struct {
	Device torch.Device
	Config Config
	Source Source
	Dir    string // of the checkpoints; shared by all processes
	Resume string // the checkpoint to go on from, "" to begin
	// Group joins the processes that train together; nil means this one alone. Each calls Run with the same job.
	Group *dist.Group
	Hooks Hooks

	// For tests: poison changes the loss of a batch of the stream, memory is called before n samples go through the model.
	poison func(r *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor
	memory func(n int) error
}

// Hooks are called on the training goroutine; nil ones are skipped. An error ends the run. Of several processes that of
// rank 0 alone calls Log, Preview, Saved and Warn.
type Hooks struct {
	Start    func(numParams, firstStep, totalSteps int) error
	Step     func(step int)                                     // after each step
	Log      func(Record) error                                 // every LogEvery steps and at the end
	Preview  func(s *torch.Scope, ema *dit.DiT, step int) error // every SampleEvery steps and at the end
	Saved    func(path string, step int)                        // after a checkpoint was written
	Warn     func(text string)                                  // what looks wrong with the run
	BadStep  func(BadStep)                                      // after steps that were not applied
	Rollback func(step int) error                               // when the run goes on from this earlier step
}

// Result says how a run ended.
type Result struct {
	Step       int    // steps done in all
	Checkpoint string // the last one written; known to rank 0
}

// ErrStopped is the error of a run that ended early, with a checkpoint, because another process of its group was told to.
var ErrStopped = errors.New("stopped with another process of the run")

// Run trains and writes checkpoints below job.Dir, from the beginning or from job.Resume. When ctx is cancelled on any
// process all of them end after the same step, save a checkpoint and return an error: the cause of ctx or ErrStopped.
func Run(ctx context.Context, job Job) (Result, error) {
	var result Result
	if err := job.Config.check(job.Source.Set(), job.Group.World()); err != nil {
		return result, err
	}
	err := torch.Run(job.Device, func(s *torch.Scope) error {
		r, err := newRunner(s, job)
		if err != nil {
			return err
		}
		defer r.close()
		if job.Resume != "" {
			if err := r.load(s, job.Resume); err != nil {
				return err
			}
		}
		err = r.run(ctx, s)
		result = r.result
		return err
	})
	return result, err
}

// A runner is a run in progress.
type runner struct {
	cfg     Config
	source  Source
	set     Set
	group   *dist.Group
	hooks   Hooks
	process *diffusion.Diffusion
	model   *dit.DiT
	opt     *optim.AdamW
	total   int           // steps of the whole run
	step    int           // steps done
	offset  int           // batches that rollbacks passed over
	epoch   int           // of the last batch
	saved   int           // the step of the last checkpoint begun or loaded
	trend   *torch.Tensor // running mean of the loss, for spikes
	window  *window
	saver   *saver
	bad     badSteps
	checks  health
	began   time.Time
	result  Result

	poison func(r *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor
	memory func(n int) error
}

// newRunner makes a run with new weights.
func newRunner(s *torch.Scope, job Job) (*runner, error) {
	cfg := job.Config
	r := &runner{cfg: cfg, source: job.Source, set: job.Source.Set(), group: job.Group, hooks: job.Hooks, poison: job.poison, memory: job.memory}
	r.total = cfg.Steps(r.set.Samples)
	if r.group.Rank() > 0 {
		r.hooks = Hooks{Start: job.Hooks.Start, Step: job.Hooks.Step, BadStep: job.Hooks.BadStep}
	}
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
	if r.opt, err = optim.NewAdamW(nn.List(r.model), adamw, optim.Sharding{Group: r.group.Torch()}); err != nil {
		nn.Close(r.model)
		return nil, err
	}
	r.trend = torch.Persist(s.Zeros(torch.Float32))
	r.window = newWindow(s)
	r.saver = newSaver(job.Dir, r.group, cfg)
	return r, nil
}

func (r *runner) close() {
	r.checks.close()
	r.saver.close()
	r.window.close()
	r.trend.Close()
	r.opt.Close()
	nn.Close(r.model)
}

// run trains to the end, going back to a checkpoint where the configuration says so.
func (r *runner) run(ctx context.Context, s *torch.Scope) error {
	r.began = time.Now()
	if r.hooks.Start != nil {
		if err := r.hooks.Start(nn.NumParams(r.model), r.step, r.total); err != nil {
			return err
		}
	}
	r.checks.before(r)
	for {
		r.window.reset(time.Now())
		err := r.train(ctx, s)
		if errors.Is(err, errRollback) {
			if err = r.rollback(s); err == nil {
				continue
			}
		}
		if err != nil && !stopped(ctx, err) {
			r.saver.abandon() // what waits for other processes
			err = r.group.Fail(err)
		}
		if saveErr := r.finishSave(); err == nil {
			err = saveErr
		}
		return err
	}
}

// stopped says whether err is that of a run that ended because it was told to.
func stopped(ctx context.Context, err error) bool {
	return errors.Is(err, ErrStopped) || ctx.Err() != nil && errors.Is(err, context.Cause(ctx))
}

// train makes steps until the run is done, is told to stop or cannot go on.
func (r *runner) train(ctx context.Context, s *torch.Scope) error {
	parts := r.cfg.parts()
	r.group.AtStep(r.step)
	stop, err := r.agreeToStop(ctx)
	if err != nil {
		return err
	}
	// The iterator must not end before the processes agreed to stop: it does not see ctx.
	loading, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	batches := r.source.Batches(loading, data.BatchOptions{
		Seed: r.cfg.GlobalSeed, GlobalBatch: r.cfg.GlobalBatchSize, StartStep: r.step, MaxSteps: r.total, FlipProb: r.cfg.FlipProb, Order: r.cfg.DataOrder, Captions: r.cfg.Model.HasText(),
		Share: data.Share{Rank: r.group.Rank(), World: r.group.World(), MicroBatches: parts, Offset: r.offset}, Workers: 1,
	})
	if !stop && r.step < r.total {
		for b, err := range batches {
			if err != nil {
				return err
			}
			last := b.Micro == parts-1
			err := s.Try(func(s *torch.Scope) error {
				p, err := r.inputs(s, b)
				if err != nil {
					return err
				}
				if r.memory != nil {
					if err := r.memory(len(p.t)); err != nil {
						return err
					}
				}
				r.checks.sawLatents(s, r, p.x0, b.Labels)
				skip, err := r.backward(s, p, b.Micro, b.Position.Batch)
				if err == nil && last {
					r.apply(s, skip)
				}
				return err
			})
			if errors.Is(err, torch.ErrOutOfMemory) {
				err = r.tooLarge(s, b, err)
			}
			if err != nil {
				return fmt.Errorf("step %d: %w", r.step+1, err)
			}
			r.window.wait += b.WaitSeconds
			r.checks.saw(r, b)
			if !last {
				continue
			}
			r.step++
			r.epoch = b.Epoch
			if stop, err = r.stepDone(ctx, s, b); err != nil {
				return err
			}
			if stop {
				break
			}
			r.group.AtStep(r.step)
		}
	}
	if r.step == r.total {
		return nil
	}
	if r.step > r.saved {
		if err := r.save(s); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return ErrStopped
}

// stepDone does what is due after a step and says whether the run stops here.
func (r *runner) stepDone(ctx context.Context, s *torch.Scope, b Batch) (stop bool, err error) {
	if r.hooks.Step != nil {
		r.hooks.Step(r.step)
	}
	if err := r.pollSave(); err != nil {
		return false, err
	}
	end := r.step == r.total
	if stop, err = r.agreeToStop(ctx); err != nil {
		return false, err
	}
	logs, saves := r.logs(r.step), end || stop || r.step%r.cfg.CkptEvery == 0
	// On the CPU there is nothing to wait for.
	if logs || saves || !s.Device().IsCUDA() {
		if err := r.checkSteps(s, b); err != nil {
			return false, err
		}
	}
	if logs {
		if err := r.record(s); err != nil {
			return false, err
		}
	}
	if saves {
		if err := r.save(s); err != nil {
			return false, err
		}
	}
	if r.cfg.SampleEvery > 0 && !stop && (end || r.step%r.cfg.SampleEvery == 0) {
		if err := r.preview(ctx, s); err != nil {
			return false, err
		}
	}
	return stop, nil
}

// logs says whether there is a record of this step.
func (r *runner) logs(step int) bool { return step == r.total || step%r.cfg.LogEvery == 0 }

// agreeToStop says whether any process was told to stop: all of them learn it after the same step.
func (r *runner) agreeToStop(ctx context.Context) (bool, error) {
	if r.group.World() == 1 {
		return ctx.Err() != nil, nil
	}
	told := []float64{0}
	if ctx.Err() != nil {
		told[0] = 1
	}
	if err := r.group.AllReduceFloats(told, dist.Max); err != nil {
		return false, fmt.Errorf("step %d: %w", r.step, err)
	}
	return told[0] > 0, nil
}

// preview shows the averages of the weights.
func (r *runner) preview(ctx context.Context, s *torch.Scope) error {
	paused := time.Now()
	defer func() { r.window.started = r.window.started.Add(time.Since(paused)) }() // previews do not count as training time
	return s.Try(func(s *torch.Scope) error {
		s = s.NoGrad()
		averages := r.opt.EMA(s) // of all processes
		if r.hooks.Preview == nil {
			return nil
		}
		err := r.hooks.Preview(s, r.model.With(averages), r.step)
		if ctx.Err() != nil { // a preview cut short is no failure: the run stops after the next step
			return nil
		}
		return err
	})
}
