package training

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
)

// A Job is a run to make. Device, Config and Source are required.
type Job struct {
	Device torch.Device
	Config Config
	Source samples.Source
	Dir    string // of the checkpoints; shared by all processes; "" writes none
	Resume string // the checkpoint to go on from, see also IsOriginal; "" to begin
	// Group joins the processes that train together; nil means this one alone. Each calls Run with the same job.
	Group *dist.Group
	Hooks Hooks
	// CheckSteps says when the run learns that a step was not applied: how soon it stops or rolls back. What its steps
	// compute does not depend on it.
	CheckSteps StepCheck
	// Capture says whether the run captures its step as a CUDA graph.
	Capture StepCapture
	// FreeMemory returns how many bytes of the host's memory are free, 0 where that is not known. The first capture
	// takes twice [Config.CheckpointBytes]; where there is less, the run captures nothing. nil: there is enough.
	FreeMemory func() int64

	// For tests: poison changes the loss of a batch of the stream, memory is called before n samples go through the
	// model.
	poison func(r *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor
	memory func(n int) error
	// Fault fails what a saver does as a file system would, and a capture.
	fault  func(what string) error
	pauses *pauses // nil: those of real runs
}

// A StepCheck says when a run looks whether its steps were applied, see [Config.OnBadStep]. To look is to wait for
// the device.
type StepCheck string

const (
	CheckByDevice    StepCheck = ""             // CheckEveryStep on the CPU, CheckWhenLogging on a GPU
	CheckEveryStep   StepCheck = "every-step"   // at once, for which a GPU would stand still between steps
	CheckWhenLogging StepCheck = "when-logging" // at log steps and before checkpoints, where the run waits anyway
)

// everyStep says whether the run looks after every step on dev.
func (c StepCheck) everyStep(dev torch.Device) bool {
	return c == CheckEveryStep || c == CheckByDevice && !dev.IsCUDA()
}

// Hooks are called on the training goroutine; nil ones are skipped. They show a run, and cannot end it. Of several
// processes that of rank 0 alone calls Log, Preview, Saving, Saved, Warn and Dir.
type Hooks struct {
	Start    func(numParams, firstStep, totalSteps int)
	Step     func(step int)                               // after each step
	Log      func(Record)                                 // every LogEvery steps and at the end
	Preview  func(s *torch.Scope, ema *dit.DiT, step int) // every SampleEvery steps and at the end
	Saving   func()                                       // before the run waits until a checkpoint is written
	Saved    func(path string, step int)                  // after a checkpoint was written
	Warn     func(text string)                            // what looks wrong with the run
	BadStep  func(BadStep)                                // after steps that were not applied
	Rollback func(step int)                               // when the run goes on from this earlier step
	// Dir is called before each checkpoint and returns the folder that takes the place of Job.Dir, which may have been
	// moved.
	Dir func() string
}

// Result says how a run ended.
type Result struct {
	Step       int    // steps done in all
	Checkpoint string // the last one written or begun from; known to rank 0
	Saved      int    // its step
}

// ErrStopped is the error of a run that ended early, with a checkpoint, because another process of its group was to
// stop.
var ErrStopped = errors.New("stopped with another process of the run")

// Run trains and writes checkpoints below job.Dir, from the beginning or from job.Resume. When ctx is cancelled on any
// process all of them end after the same step, save a checkpoint and return an error: the cause of ctx or ErrStopped.
func Run(ctx context.Context, job Job) (Result, error) {
	var result Result
	if err := job.Config.check(job.Source.Set(), job.Group.World()); err != nil {
		return result, err
	}
	err := torch.Run(job.Device, func(s *torch.Scope) error {
		s = job.Config.Precision.Scope(s).Deterministic(job.Config.Deterministic)
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
		r.result.Step = r.step
		if r.saved > 0 { // else that of the file that it began from
			r.result.Saved = r.saved
		}
		result = r.result
		return err
	})
	return result, err
}

// A runner is a run in progress.
type runner struct {
	cfg       Config
	source    samples.Source
	set       samples.Set
	group     *dist.Group
	hooks     Hooks
	objective diffusion.Objective
	intake    *intake
	stepGraph stepGraph
	pace      *torch.Pace // the host is a part of a step ahead of the device, no more
	model     *dit.DiT
	steps     *dit.DiT // what steps compute with: model, in bf16 on copies of its weights
	opt       *optim.AdamW
	total     int   // steps of the whole run
	step      int   // steps done
	offset    int   // batches that rollbacks passed over
	epoch     int   // of the last batch
	saved     int   // the step of the last checkpoint written, begun or loaded
	unsaved   retry // of a checkpoint that could not be written
	ending    bool  // nothing comes after the checkpoint that is written next
	checked   bool  // after every step: whether it was applied
	pauses    *pauses
	busy      bool          // between the beginning and the end of a change of the state
	trend     *torch.Tensor // running mean of the loss, for spikes
	window    *window
	saver     *saver
	bad       badSteps
	checks    health
	began     time.Time
	result    Result

	freeMemory func() int64

	poison func(r *runner, s *torch.Scope, batch int, loss *torch.Tensor) *torch.Tensor
	memory func(n int) error
}

// newRunner makes a run with new weights.
func newRunner(s *torch.Scope, job Job) (*runner, error) {
	cfg := job.Config
	r := &runner{cfg: cfg, source: job.Source, set: job.Source.Set(), group: job.Group, hooks: job.Hooks,
		freeMemory: job.FreeMemory, poison: job.poison, memory: job.memory}
	r.total = cfg.Steps(r.set.Samples)
	if r.group.Rank() > 0 {
		r.hooks = Hooks{Start: job.Hooks.Start, Step: job.Hooks.Step, BadStep: job.Hooks.BadStep}
	}
	var err error
	if r.objective, err = cfg.newObjective(s); err != nil {
		return nil, err
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
	r.model.SetPrecision(cfg.Precision.DType())
	adamw := optim.DefaultConfig
	adamw.WeightDecay = cfg.WeightDecay
	if r.opt, err = optim.NewAdamW(nn.List(r.model), adamw, optim.Sharding{Group: r.group}); err != nil {
		nn.Close(r.model)
		return nil, err
	}
	r.steps = r.model
	if cfg.Precision == nn.BF16 && r.group.World() == 1 && cfg.parts() == 1 {
		r.steps = r.model.With(r.opt.Copies(s, r.model.Casts))
	}
	r.intake = newIntake(s, cfg, r.source, cfg.GlobalBatchSize/(r.group.World()*cfg.parts()))
	r.pace = torch.NewPace(s, 1)
	r.trend = torch.Persist(s.Zeros(torch.Float32))
	r.window = newWindow(s)
	r.saver = newSaver(job.Dir, r.group, cfg)
	if r.pauses = job.pauses; r.pauses == nil {
		r.pauses = defaultPauses()
	}
	r.saver.pauses, r.saver.fault = r.pauses.file, job.fault
	r.checked = job.CheckSteps.everyStep(job.Device)
	r.stepGraph.wanted = wantsCapture(job)
	return r, nil
}

func (r *runner) close() {
	samples.ComparisonOf(r.source).Stop()
	r.checks.close()
	r.saver.close()
	r.stepGraph.drop()
	r.window.close()
	r.pace.Close()
	r.intake.close()
	r.trend.Close()
	r.opt.Close()
	nn.Close(r.model)
}

// run trains to the end, going back to a checkpoint where the configuration says so.
func (r *runner) run(ctx context.Context, s *torch.Scope) error {
	r.began = time.Now()
	if r.hooks.Start != nil {
		r.hooks.Start(nn.NumParams(r.model), r.step, r.total)
	}
	r.checks.begin(r)
	if r.saved != r.step { // taken up from a file of another program: from here on the run stands on its own
		if err := s.Try(r.save); err != nil {
			return r.group.Fail(err)
		}
		r.finishSave()
	}
	for {
		r.window.reset(s, time.Now())
		err := s.Try(func(s *torch.Scope) error { return r.train(ctx, s) })
		if errors.Is(err, errRollback) {
			if err = r.rollback(s); err == nil {
				continue
			}
		}
		switch {
		case err == nil || stopped(ctx, err):
			if saveErr := r.lastSave(s); saveErr != nil {
				return saveErr
			}
		case r.together(err):
			r.rescue(s)
		default:
			r.saver.abandon() // what waits for other processes
			err = r.group.Fail(err)
			r.finishSave()
		}
		return err
	}
}

// stopped says whether err is that of a run that was to stop.
func stopped(ctx context.Context, err error) bool {
	return errors.Is(err, ErrStopped) || ctx.Err() != nil && errors.Is(err, context.Cause(ctx))
}

// train makes steps until the run is done, is to stop or cannot go on.
func (r *runner) train(ctx context.Context, s *torch.Scope) error {
	parts := r.cfg.parts()
	r.group.AtStep(r.step)
	stop, err := r.agree(ctx, s, nil)
	if err != nil {
		return fmt.Errorf("step %d: %w", r.step, err)
	}
	loading := ctx
	if r.group.World() > 1 { // the iterator must not end before the processes agreed to stop
		loading = context.WithoutCancel(ctx)
	}
	loading, cancel := context.WithCancel(loading)
	defer cancel()
	if !stop && r.step < r.total {
		for b, err := range r.batches(loading) {
			// Here, since all know here whether one of them has nothing to go on with, and wait for each other
			// nowhere else.
			if stop, err = r.agree(ctx, s, err); stop || err != nil {
				if err != nil {
					err = fmt.Errorf("step %d: %w", r.step+1, err)
				}
				r.opt.ZeroGrad() // of earlier parts
				if err != nil {
					return err
				}
				break
			}
			last := b.Micro == parts-1
			err := s.Try(func(s *torch.Scope) error {
				if err := r.send(b); err != nil {
					return err
				}
				if r.memory != nil {
					if err := r.memory(len(b.Labels)); err != nil {
						return err
					}
				}
				x0, err := r.makeStep(s, b.Micro, b.Position.Batch)
				r.tellWarnings()
				if err == nil {
					r.checks.observe(s, r, x0)
				}
				return err
			})
			if errors.Is(err, torch.ErrOutOfMemory) {
				err = r.tooLarge(s, b, err)
			}
			if err != nil {
				return fmt.Errorf("step %d: %w", r.step+1, err)
			}
			r.pace.Step()
			r.window.wait += b.WaitSeconds
			r.checks.countLabels(r, b)
			if !last {
				continue
			}
			r.step++
			r.window.steps++
			r.epoch = b.Epoch
			if err := r.stepDone(ctx, s, b); err != nil {
				return err
			}
			r.group.AtStep(r.step)
		}
	}
	if r.step == r.total {
		return r.finishComparison(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return ErrStopped
}

// stepDone does what is due after a step. The checkpoint comes first: what only shows the run could fail.
func (r *runner) stepDone(ctx context.Context, s *torch.Scope, b samples.Batch) error {
	if r.hooks.Step != nil {
		r.hooks.Step(r.step)
	}
	r.pollSave()
	end := r.step == r.total
	logs, saves := r.logs(r.step), end || r.step%r.cfg.CkptEvery == 0
	if logs || saves || r.checked {
		if err := r.checkSteps(s, b); err != nil {
			return err
		}
	}
	if saves {
		if err := r.save(s); err != nil {
			return err
		}
	}
	if logs {
		if err := r.record(s); err != nil {
			return err
		}
	}
	if r.cfg.SampleEvery == 0 || !end && r.step%r.cfg.SampleEvery != 0 {
		return nil
	}
	if r.group.World() == 1 && ctx.Err() != nil { // several processes have not agreed yet to stop
		return nil
	}
	return r.preview(s)
}

// logs says whether there is a record of this step.
func (r *runner) logs(step int) bool { return step == r.total || step%r.cfg.LogEvery == 0 }

// agree lets all processes learn after the same step whether one of them is to stop, whether one has failed (as this
// one has where failed is not nil), and whether a checkpoint is to be tried again, which is done here.
func (r *runner) agree(ctx context.Context, s *torch.Scope, failed error) (stop bool, err error) {
	const stops, fails, saves = 0, 1, 2
	votes := make([]float64, 3)
	for i, is := range []bool{ctx.Err() != nil, failed != nil, r.unsaved.due(time.Now())} {
		if is {
			votes[i] = 1
		}
	}
	if r.group.World() > 1 {
		if err := r.group.AllReduceFloats(votes, dist.Max); err != nil {
			return false, err
		}
	}
	switch {
	case votes[stops] > 0:
		return true, nil // a failure to read does not matter any more
	case failed != nil:
		return false, agreed{failed}
	case votes[fails] > 0:
		return false, agreed{ErrStopped}
	case votes[saves] > 0:
		return false, r.save(s)
	}
	return false, nil
}

// An agreed error is one that all processes end with after the same step.
type agreed struct{ error }

func (e agreed) Unwrap() error { return e.error }

// together says whether the processes can still do something in common after err.
func (r *runner) together(err error) bool {
	return r.group.World() == 1 || errors.As(err, new(agreed))
}

// preview shows the averages of the weights.
func (r *runner) preview(s *torch.Scope) error {
	paused := time.Now()
	// previews do not count as training time
	defer func() { r.window.started = r.window.started.Add(time.Since(paused)) }()
	return s.Try(func(s *torch.Scope) error {
		s = s.NoGrad()
		averages := r.opt.EMA(s) // of all processes
		if r.hooks.Preview != nil {
			r.stepGraph.drop() // a preview may need its memory
			r.hooks.Preview(s, r.model.With(averages), r.step)
		}
		return nil
	})
}
