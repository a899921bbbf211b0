package diffusion

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/torch"
)

// A Sampler makes steps of the reverse process.
type Sampler struct {
	Random bool // steps add noise
	// Step goes from x at step t to step t-1. noise has x's shape; it is nil at t = 0 and where the sampler adds none.
	Step func(d *Diffusion, s *torch.Scope, model Denoiser, x, noise *torch.Tensor, t int) *torch.Tensor
}

// ParseSampler reads "ddpm" or "ddim".
func ParseSampler(name string) (Sampler, error) {
	switch name {
	case "ddpm":
		return Sampler{Random: true, Step: (*Diffusion).DDPMStep}, nil
	case "ddim":
		var ddim Sampler
		ddim.Step = func(d *Diffusion, s *torch.Scope, model Denoiser, x, noise *torch.Tensor, t int) *torch.Tensor {
			return d.DDIMStep(s, model, x, noise, t, 0)
		}
		return ddim, nil
	}
	return Sampler{}, fmt.Errorf("sampler %q: want ddpm or ddim", name)
}

// Sample runs the reverse process from x (noise, [N, C, H, W]) to data. noise(s, k) gives the noise
// of the k-th step from 0, and is not called for the last one, nor for a sampler that adds none. after is
// called when k steps are done; its error ends the run.
func (d *Diffusion) Sample(s *torch.Scope, sampler Sampler, model Denoiser, x *torch.Tensor,
	noise func(s *torch.Scope, k int) *torch.Tensor, after func(k int) error) (*torch.Tensor, error) {
	s = s.NoGrad()
	for k := range d.Len() {
		t := d.Len() - 1 - k
		last := x
		x = s.Sub(func(s *torch.Scope) *torch.Tensor {
			var z *torch.Tensor
			if t > 0 && sampler.Random {
				z = noise(s, k)
			}
			return sampler.Step(d, s, model, x, z, t)
		})
		if k > 0 {
			s.Release(last)
		}
		if err := after(k + 1); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// repeat returns t for each of x's samples.
func repeat(t int, x *torch.Tensor) []int {
	out := make([]int, x.Dim(0))
	for i := range out {
		out[i] = t
	}
	return out
}

// DDPMStep draws x_{t-1} from the learned reverse step (ancestral sampling, p_sample of the original).
func (d *Diffusion) DDPMStep(s *torch.Scope, model Denoiser, x, noise *torch.Tensor, t int) *torch.Tensor {
	ts := repeat(t, x)
	p := d.predict(s, model(s, x, d.modelSteps(s, ts)), x, ts)
	if t == 0 {
		return p.mean
	}
	return s.Add(p.mean, s.Mul(s.Exp(s.MulScalar(p.logVar, 0.5)), noise))
}

// DDIMStep is the step of Song et al. 2021; eta = 0 adds no noise, eta = 1 as much as DDPM. The
// learned variance is not used.
func (d *Diffusion) DDIMStep(s *torch.Scope, model Denoiser, x, noise *torch.Tensor, t int, eta float64) *torch.Tensor {
	ts := repeat(t, x)
	p := d.predict(s, model(s, x, d.modelSteps(s, ts)), x, ts)
	eps := d.impliedNoise(s, x, p.x0, ts)
	abar, prev := float32(d.AlphasCumprod[t]), float32(d.AlphasCumprodPrev[t])
	sigma := float32(eta) * sqrt32((1-prev)/(1-abar)) * sqrt32(1-abar/prev)
	mean := s.Add(s.MulScalar(p.x0, float64(sqrt32(prev))), s.MulScalar(eps, float64(sqrt32(1-prev-sigma*sigma))))
	if t == 0 || eta == 0 {
		return mean
	}
	return s.Add(mean, s.MulScalar(noise, float64(sigma)))
}

// DDIMReverse runs the deterministic step the other way, from x at step t to step t+1: it encodes
// data as noise.
func (d *Diffusion) DDIMReverse(s *torch.Scope, model Denoiser, x *torch.Tensor, t int) *torch.Tensor {
	ts := repeat(t, x)
	p := d.predict(s, model(s, x, d.modelSteps(s, ts)), x, ts)
	eps := d.impliedNoise(s, x, p.x0, ts)
	next := float32(d.AlphasCumprodNext[t])
	return s.Add(s.MulScalar(p.x0, float64(sqrt32(next))), s.MulScalar(eps, float64(sqrt32(1-next))))
}

// impliedNoise is the noise that leads from x0 to x at step t, recomputed from x0 as the original does.
func (d *Diffusion) impliedNoise(s *torch.Scope, x, x0 *torch.Tensor, t []int) *torch.Tensor {
	k := gather(s, t, d.SqrtRecipAlphasCumprod, d.SqrtRecipM1AlphasCumprod)
	return s.Div(s.Subtract(s.Mul(k[0], x), x0), k[1])
}

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }
