// Package diffusion holds the process that a Diffusion Transformer is trained on and sampled with:
// the Gaussian diffusion of Ho et al. 2020 with the learned variance of Nichol and Dhariwal 2021, as
// DiT uses it. It knows no model: it works on a [Denoiser].
//
// Coefficients are computed in float64 (package schedule) and rounded to float32 where they meet a
// tensor, as in the original. x_0 is never clipped: latents are not pixels.
//
// Shape letters: N batch, C channels, H and W height and width.
package diffusion

import (
	"fmt"

	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// TrainSteps is the number of steps of the process that models are trained on.
const TrainSteps = 1000

// A Denoiser predicts from x [N, C, H, W] and timesteps t (Int64 [N], of the process of training) the
// noise in x and, where it learns the variance, C more channels v.
type Denoiser func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor

// A Diffusion is a process: the full one of training, or a shorter one for sampling.
type Diffusion struct {
	*schedule.Schedule
}

// New returns the linear schedule of [TrainSteps] steps, respaced to those that spec keeps: "" for
// all, a number such as "250", "ddim50" for strides from zero, or a list of counts by section.
func New(spec string) (*Diffusion, error) {
	full, err := schedule.New(schedule.LinearBetas(TrainSteps))
	if err != nil {
		return nil, err
	}
	use, err := schedule.Space(TrainSteps, spec)
	if err != nil {
		return nil, err
	}
	// Keeping all steps respaces too, as the original does: it moves the betas in their last bits.
	kept, err := full.Respace(use)
	if err != nil {
		return nil, err
	}
	return &Diffusion{kept}, nil
}

// checkSteps panics, as operations do, where one of the steps t is not one of the n of a process.
func checkSteps(t []int, n int) {
	for _, k := range t {
		if k < 0 || k >= n {
			panic(&torch.Error{Op: "Diffusion", Msg: fmt.Sprintf("timestep %d is out of range: want 0 to %d", k, n-1)})
		}
	}
}

// gather picks entry t[i] of each table for sample i: one tensor [N, 1, 1, 1] a table.
func gather(s *torch.Scope, t []int, tables ...[]float64) []*torch.Tensor {
	checkSteps(t, len(tables[0]))
	flat := make([]float32, 0, len(tables)*len(t))
	for _, table := range tables {
		for _, i := range t {
			flat = append(flat, float32(table[i]))
		}
	}
	all := torch.From(s, flat, len(tables), len(t), 1, 1, 1)
	out := make([]*torch.Tensor, len(tables))
	for i := range out {
		out[i] = s.Select(all, 0, i)
	}
	return out
}

// modelSteps returns what the network is told for the steps t: their numbers in training.
func (d *Diffusion) modelSteps(s *torch.Scope, t []int) *torch.Tensor {
	checkSteps(t, d.Len())
	steps := make([]int64, len(t))
	for i, k := range t {
		steps[i] = int64(d.TimestepMap[k])
	}
	return torch.From(s, steps, len(t))
}

// QSample noises x0 [N, C, H, W] to step t[i] for sample i: sqrt(abar) x0 + sqrt(1 - abar) noise.
func (d *Diffusion) QSample(s *torch.Scope, x0, noise *torch.Tensor, t []int) *torch.Tensor {
	c := gather(s, t, d.SqrtAlphasCumprod, d.SqrtOneMinusAlphasCumprod)
	return s.Add(s.Mul(c[0], x0), s.Mul(c[1], noise))
}

// A prediction is what a model's output says about step t-1.
type prediction struct {
	x0, eps      *torch.Tensor // [N, C, H, W]
	mean, logVar *torch.Tensor // of the reverse step; logVar broadcasts to [N, C, H, W]
}

// predict reads a model's output at x, step t (p_mean_variance of the original). With 2C channels
// the second half v interpolates the logarithm of the variance between its bounds; with C the
// variance is the upper bound.
func (d *Diffusion) predict(s *torch.Scope, output, x *torch.Tensor, t []int) prediction {
	c := x.Dim(1)
	var p prediction
	p.eps = output
	if output.Dim(1) == 2*c {
		p.eps = s.Narrow(output, 1, 0, c)
		v := s.Narrow(output, 1, c, c)
		k := gather(s, t, d.PosteriorLogVarianceClipped, d.LogBetas)
		frac := s.MulScalar(s.AddScalar(v, 1), 0.5)
		one := s.Ones(torch.Float32, 1)
		p.logVar = s.Add(s.Mul(frac, k[1]), s.Mul(s.Subtract(one, frac), k[0]))
	} else {
		// FIXED_LARGE of the original: the first entry is the clipped posterior variance, the rest beta.
		large := append([]float64{d.PosteriorLogVarianceClipped[0]}, d.LogBetas[1:]...)
		p.logVar = gather(s, t, large)[0]
	}
	k := gather(s, t, d.SqrtRecipAlphasCumprod, d.SqrtRecipM1AlphasCumprod, d.PosteriorMeanCoef1, d.PosteriorMeanCoef2)
	p.x0 = s.Subtract(s.Mul(k[0], x), s.Mul(k[1], p.eps))
	p.mean = s.Add(s.Mul(k[2], p.x0), s.Mul(k[3], x))
	return p
}
