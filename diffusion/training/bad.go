package training

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// BadStep tells of steps that were not applied, because their loss or gradient is no finite number or their loss
// jumped.
type BadStep struct {
	Step  int    // steps done, of which the last Count or fewer were bad
	Count int    // of bad steps
	Why   string // in words, as far as it can be found out
}

// What the run is to do after bad steps; see [Config.OnBadStep].
const (
	onBadStop     = "stop"
	onBadSkip     = "skip"
	onBadRollback = "rollback"
)

// A run gives up after so many bad steps in a row, or so many returns to one checkpoint.
const (
	maxBadSteps  = 100
	maxRollbacks = 3
)

var errRollback = errors.New("roll back")

// badSteps keeps count of them.
type badSteps struct {
	known     int // in the window
	rollbacks int // since the last checkpoint was written
	number    int // of rollbacks in all, the same on all processes
}

// checkSteps looks whether steps were left out since it last did, and does what the configuration says. B is the last
// part of the last step.
func (r *runner) checkSteps(s *torch.Scope, b samples.Batch) error {
	all, inARow := r.window.bad(s)
	count := all - r.bad.known
	r.bad.known = all
	if r.logs(r.step) {
		r.bad.known = 0 // record empties the window
	}
	if count == 0 {
		return nil
	}
	bad := BadStep{Step: r.step, Count: count}
	err := s.Try(func(s *torch.Scope) (err error) {
		bad.Why, err = r.explain(s, b)
		return err
	})
	if err != nil {
		bad.Why = fmt.Sprintf("the loss or a gradient was not a finite number; the reason could not be found: %v", err)
	}
	if r.hooks.BadStep != nil && r.cfg.OnBadStep != onBadStop && r.cfg.OnBadStep != "" {
		r.hooks.BadStep(bad)
	}
	switch r.cfg.OnBadStep {
	case onBadSkip:
		if inARow < maxBadSteps {
			return nil
		}
		return agreed{fmt.Errorf("step %d: %s; none of %d steps in a row could be applied", r.step, bad.Why, inARow)}
	case onBadRollback:
		return errRollback
	}
	return agreed{fmt.Errorf("step %d: %s", r.step, bad.Why)}
}

// unstableAdvice is what to do where the data are not at fault.
const unstableAdvice = ": lower the learning rate or set a gradient norm limit and continue from an earlier " +
	"checkpoint, or let the run skip such steps or roll back"

// rollback goes back to the last checkpoint. The batches since then, the bad one last, are passed over.
func (r *runner) rollback(s *torch.Scope) error {
	bad := r.step
	r.finishSave()
	r.bad.rollbacks++
	r.bad.number++
	r.bad.known = 0
	path, err := r.lastCheckpoint()
	if err != nil {
		return err
	}
	if path == "" {
		return fmt.Errorf("step %d: its loss or gradient is not usable, and there is no checkpoint yet to go back "+
			"to: lower the learning rate, or write checkpoints more often", bad)
	}
	if r.bad.rollbacks > maxRollbacks {
		return fmt.Errorf("step %d: bad again after %d returns to %s: lower the learning rate or set a gradient "+
			"norm limit", bad, maxRollbacks, path)
	}
	offset := r.offset
	if err := r.load(s, path); err != nil {
		return err
	}
	r.offset = offset + bad - r.step
	if r.hooks.Rollback != nil {
		r.hooks.Rollback(r.step)
	}
	return nil
}

// lastCheckpoint is the one that rank 0 wrote or began from.
func (r *runner) lastCheckpoint() (string, error) {
	if r.group.World() == 1 {
		return r.result.Checkpoint, nil
	}
	key := fmt.Sprintf("rollback/%d", r.bad.number)
	if r.group.Rank() == 0 {
		return r.result.Checkpoint, r.group.Store().Set(key, []byte(r.result.Checkpoint))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path, err := r.group.Store().Get(ctx, key)
	return string(path), err
}

// explain goes through a batch, which was sent last, once more to find what is wrong, on this process alone. On a GPU,
// where bad steps are noticed late, it may be an innocent one.
func (r *runner) explain(s *torch.Scope, b samples.Batch) (string, error) {
	r.stepGraph.drop() // its memory is needed here
	r.opt.ZeroGrad()
	defer r.opt.ZeroGrad()
	finite := func(x *torch.Tensor) bool {
		s := s.NoGrad()
		return s.To(s.All(s.IsFinite(x)), torch.Float32).Item() != 0
	}
	p := r.inputs(s)
	if why := r.badData(s, p.x0, b.IDs); why != "" {
		return why, nil
	}
	losses, finish := r.losses(s, p)
	total := torch.Data[float32](losses.Total)
	worst := 0
	for i, v := range total {
		if !(v <= total[worst]) { // NaN is the worst
			worst = i
		}
	}
	times := torch.Data[float64](s.NoGrad().To(p.t, torch.Float64))
	sample := fmt.Sprintf("%s at %s", r.sampleName(b.IDs[worst]), r.cfg.timeName(times[worst]))
	if loss := float64(total[worst]); math.IsNaN(loss) || math.IsInf(loss, 0) {
		return fmt.Sprintf("the loss of %s is %v", sample, loss) + unstableAdvice, nil
	}
	s.Backward(r.loss(s, losses, b.Position.Batch))
	finish()
	r.opt.ExposeGrad()
	var broken []string
	for _, param := range nn.List(r.model) {
		if !param.Tensor.RequiresGrad() {
			continue
		}
		if g := s.Grad(param.Tensor); g != nil && !finite(g) {
			broken = append(broken, param.Name)
		}
	}
	if len(broken) > 0 {
		return fmt.Sprintf("the gradient of %s is not a finite number", some(broken, 4)) + unstableAdvice, nil
	}
	if trend := r.trend.Item(); r.cfg.SpikeFactor > 0 && trend > 0 {
		return fmt.Sprintf("the loss is above %g times its running mean of %.4g; here %s has the largest, %.4g"+
			unstableAdvice, r.cfg.SpikeFactor, trend, sample, total[worst]), nil
	}
	return "the loss or a gradient was not a finite number, but on the last batch of this process all are " +
		"finite" + unstableAdvice, nil
}

// some lists the first n of values.
func some[T any](values []T, n int) string {
	var words []string
	for _, v := range values[:min(n, len(values))] {
		words = append(words, fmt.Sprint(v))
	}
	if len(values) > n {
		words = append(words, "and "+names.Plural(len(values)-n, "other"))
	}
	return strings.Join(words, ", ")
}

// tooLarge finds by trial, with the samples that were sent last, how many at a time would have fitted into memory. It
// ends the work of the group: meanwhile other processes would wait for the gradients of this one, and this one for
// those of others that are out of memory too.
func (r *runner) tooLarge(s *torch.Scope, b samples.Batch, cause error) error {
	_ = r.group.Fail(fmt.Errorf("step %d: %w", r.step+1, cause)) // this process has more to say
	r.stepGraph.drop()
	n := len(b.Labels)
	fits := func(k int) bool {
		defer r.opt.ZeroGrad()
		return s.Try(func(s *torch.Scope) error {
			if r.memory != nil {
				if err := r.memory(k); err != nil {
					return err
				}
			}
			p := r.inputs(s).first(s, k)
			losses, finish := r.losses(s, p)
			s.Backward(r.loss(s, losses, b.Position.Batch))
			finish()
			s.Synchronize()
			return nil
		}) == nil
	}
	r.opt.ZeroGrad()
	low, high := 0, n // low fits, high does not
	for high-low > 1 {
		if k := (low + high) / 2; fits(k) {
			low = k
		} else {
			high = k
		}
	}
	recompute := ""
	if !r.cfg.Recompute {
		recompute = "; --recompute-activations fits more, and takes a third longer"
	}
	if low == 0 {
		err := fmt.Errorf("%w: not even one sample fits: take a smaller model, or bf16%s", cause, recompute)
		return &BatchError{err, n, 0}
	}
	parts := r.cfg.parts()
	for each := n * parts; each/parts > low || each%parts != 0; {
		parts++
	}
	return &BatchError{fmt.Errorf("%w: a process takes %s at a time, of which %d would have fitted: "+
		"--gradient-accumulation-steps %d gives the same training in smaller parts%s", cause,
		names.Plural(n, "sample"), low, parts, recompute), n, low}
}

// A BatchError is that of a step whose samples do not fit into memory. It says what would fit.
type BatchError struct {
	Err          error
	Samples, Fit int // of a process at a time: how many there were, and how many would have fitted
}

func (e *BatchError) Error() string { return e.Err.Error() }

// Unwrap returns the error of the operation that ran out of memory.
func (e *BatchError) Unwrap() error { return e.Err }
