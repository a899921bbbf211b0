package training

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/optim"
)

// compute trains on what was sent last, part i of the equal parts of a batch of the stream. With the last one it makes
// the step, of whose change of the weights watch asks for the norm. It needs nothing of the host.
func (r *runner) compute(s *torch.Scope, i, batch int, watch bool) (part, error) {
	p := r.inputs(s)
	skip, err := r.backward(s, p, i, batch)
	if err == nil && i == r.cfg.parts()-1 {
		if watch {
			r.opt.Watch()
		}
		r.changing(func() {
			r.apply(s, skip)
			if watch {
				s.NoGrad().Copy_(r.window.update, r.opt.Change(s))
			}
		})
	}
	return p, err
}

// changing calls f, which changes the state. Where f panics the state is neither that before nor that after it, and
// busy stays true: the run may end, and write no checkpoint.
func (r *runner) changing(f func()) {
	was := r.busy
	r.busy = true
	f()
	r.busy = was
}

// losses scores the model on p. After the Backward of a loss of them, finish completes the gradients.
func (r *runner) losses(s *torch.Scope, p part) (losses diffusion.Losses, finish func()) {
	finish = func() {}
	losses = r.objective.Losses(s, func(s *torch.Scope, x, t *torch.Tensor) (out *torch.Tensor) {
		if r.cfg.Recompute {
			out, finish = r.steps.ForwardRecomputing(s, x, t, p.cond)
			return out
		}
		return r.steps.Forward(s, x, t, p.cond)
	}, p.x0, p.noise, p.t)
	return losses, finish
}

// loss is what gradients are of.
func (r *runner) loss(s *torch.Scope, losses diffusion.Losses, batch int) *torch.Tensor {
	loss := s.Mean(losses.Total)
	if r.poison != nil {
		loss = r.poison(r, s, batch, loss)
	}
	return loss
}

// backward adds the gradients of part i of the equal parts of a batch of the stream. With the last one the processes
// exchange theirs, and skip says whether to make no step of them (nil: no).
func (r *runner) backward(s *torch.Scope, p part, i, batch int) (skip *torch.Tensor, err error) {
	count := r.cfg.parts()
	losses, finish := r.losses(s, p)
	loss := r.loss(s, losses, batch)
	if count > 1 {
		loss = s.MulScalar(loss, 1/float64(count))
	}
	r.window.part(s.NoGrad(), r.objective, loss, losses, p, i, count)
	if i == count-1 {
		if r.cfg.SpikeFactor > 0 { // before gradients are on their way: the processes talk of the loss
			if skip, err = r.spike(s.NoGrad()); err != nil {
				return nil, err
			}
		}
		r.opt.LastBackward()
	}
	s.Backward(loss)
	finish()
	return skip, nil
}

// apply makes the step on the gradients of its parts.
func (r *runner) apply(s *torch.Scope, skip *torch.Tensor) {
	s = s.NoGrad()
	r.window.add(s, r.opt.Step(s, optim.StepOptions{
		LR: r.intake.feed.Tensor(feedRate), EMADecay: r.intake.feed.Tensor(feedDecay), MaxNorm: r.cfg.MaxGradNorm,
		Skip: skip,
	}))
}

// spike returns 1 where the loss of the step, over all processes, is above SpikeFactor times its running mean, else
// 0, and lets a loss that is not enter the mean. It reads nothing back.
func (r *runner) spike(s *torch.Scope) (*torch.Tensor, error) {
	const memory = 0.99
	loss := s.Clone(s.Select(r.window.parts, 0, termLoss))
	if r.group.World() > 1 {
		if err := r.group.AllReduce(loss, dist.Sum); err != nil {
			return nil, fmt.Errorf("step %d: %w", r.step+1, err)
		}
		loss = s.MulScalar(loss, 1/float64(r.group.World()))
	}
	first := s.EqScalar(r.trend, 0)
	limit := s.Where(first, s.Full(math.MaxFloat32, torch.Float32), s.MulScalar(r.trend, r.cfg.SpikeFactor))
	fine := s.Lt(loss, limit) // not for NaN either
	s.Copy_(r.trend, s.Where(fine, s.Where(first, loss, s.Lerp(loss, r.trend, memory)), r.trend))
	return s.AddScalar(s.Neg(s.To(fine, torch.Float32)), 1), nil
}
