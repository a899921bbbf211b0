package training

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/philox"
)

// A part is what the model is trained on at once: latents x0 and noise [N, C, h, w], timesteps and condition.
type part struct {
	x0, noise *torch.Tensor
	t         []int
	cond      dit.Condition
}

// first is the part of its first n samples.
func (p part) first(s *torch.Scope, n int) part {
	cut := func(x *torch.Tensor) *torch.Tensor {
		if x == nil {
			return nil
		}
		return s.Narrow(x, 0, 0, n)
	}
	return part{cut(p.x0), cut(p.noise), p.t[:n],
		dit.Condition{Labels: cut(p.cond.Labels), Tokens: cut(p.cond.Tokens), Lengths: cut(p.cond.Lengths)}}
}

// inputs draws what the samples of b are trained with: latents from their posteriors, noise, timesteps and labels
// and captions, some of which are dropped, both of a sample at once, for the null class and the empty caption. All
// of it depends on the seed and the samples' places in the run alone.
func (r *runner) inputs(s *torch.Scope, b samples.Batch) (part, error) {
	cfg, n := r.cfg, len(b.Labels)
	p := part{t: make([]int, n)}
	indices, labels, dropped := make([]int64, n), make([]int64, n), make([]bool, n)
	for i := range n {
		index := uint64(b.Position.Batch)*uint64(cfg.GlobalBatchSize) + uint64(b.Slot+i)
		indices[i] = int64(index)
		p.t[i] = philox.Intn(gaussian.TrainSteps, cfg.GlobalSeed, philox.TagTimestep, 0, index)
		labels[i] = b.Labels[i]
		if cfg.Model.HasClass() && (labels[i] < 0 || labels[i] >= int64(cfg.Model.NumClasses)) {
			return p, fmt.Errorf("sample %d has label %d, which is out of range: the model has classes 0 to %d",
				b.IDs[i], labels[i], cfg.Model.NumClasses-1)
		}
		if philox.Uniform(cfg.GlobalSeed, philox.TagLabelDrop, 0, index) < cfg.Model.ClassDropoutProb {
			dropped[i], labels[i] = true, int64(cfg.Model.NullClass())
		}
	}
	s = s.NoGrad()
	set := r.set
	parts := s.Chunk(b.Moments(s), 2, 1)
	mean, logVar := parts[0], parts[1]
	step0, samples := s.Zeros(torch.Int64, 1), torch.From(s, indices, n)
	posterior := s.PhiloxNormal(cfg.GlobalSeed, philox.TagPosterior, step0, samples, set.Channels, set.Height,
		set.Width)
	p.x0 = s.MulScalar(s.Addcmul(mean, s.Exp(s.MulScalar(logVar, 0.5)), posterior), set.ScalingFactor)
	p.noise = s.PhiloxNormal(cfg.GlobalSeed, philox.TagStartNoise, step0, samples, set.Channels, set.Height, set.Width)
	if cfg.Model.HasClass() {
		p.cond.Labels = torch.From(s, labels, n)
	}
	if cfg.Model.HasText() {
		p.cond.Tokens, p.cond.Lengths = set.Text.Tokens(s, b, dropped)
	}
	return p, nil
}

// losses scores the model on p. After the Backward of a loss of them, finish completes the gradients.
func (r *runner) losses(s *torch.Scope, p part) (losses diffusion.Losses, finish func()) {
	finish = func() {}
	losses = r.objective.Losses(s, func(s *torch.Scope, x, t *torch.Tensor) (out *torch.Tensor) {
		if r.cfg.Recompute {
			out, finish = r.model.ForwardRecomputing(s, x, t, p.cond)
			return out
		}
		return r.model.Forward(s, x, t, p.cond)
	}, p.x0, p.noise, times(s, p.t))
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
	r.window.part(s.NoGrad(), loss, losses, p, i, count)
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
		LR: s.Full(r.cfg.learningRate(r.step, r.total), torch.Float64), MaxNorm: r.cfg.MaxGradNorm,
		EMADecay: s.Full(r.cfg.emaDecay(r.step), torch.Float64), Skip: skip, UpdateNorm: r.logs(r.step + 1),
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

func times(s *torch.Scope, t []int) *torch.Tensor {
	steps := make([]int64, len(t))
	for i, k := range t {
		steps[i] = int64(k)
	}
	return torch.From(s, steps, len(t))
}
