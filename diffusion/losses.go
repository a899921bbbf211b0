package diffusion

import (
	"math"
	"slices"

	"github.com/ditrun/ditrun/torch"
)

// Losses are the terms of each sample, [N]. The training loss is the mean of Total.
type Losses struct {
	Total *torch.Tensor // MSE + VB
	MSE   *torch.Tensor // mean squared error of the predicted noise
	VB    *torch.Tensor // variational bound in bits, which trains the variance alone; nil without it
}

// TrainingLosses noises x0 [N, C, H, W] with noise to the steps t and scores the model's prediction
// (training_losses of the original with LossType.MSE).
func (d *Diffusion) TrainingLosses(s *torch.Scope, model Denoiser, x0, noise *torch.Tensor, t []int) Losses {
	xt := d.QSample(s, x0, noise, t)
	output := model(s, xt, d.modelSteps(s, t))
	c := x0.Dim(1)
	eps := output
	if output.Dim(1) == 2*c {
		eps = s.Narrow(output, 1, 0, c)
	}
	l := Losses{MSE: meanFlat(s, s.Square(s.Subtract(noise, eps)))}
	l.Total = l.MSE
	if output.Dim(1) == 2*c {
		// The bound trains the variance, not the noise: the noise enters as a constant.
		frozen := s.Cat([]*torch.Tensor{s.Detach(eps), s.Narrow(output, 1, c, c)}, 1)
		l.VB = d.variationalBound(s, frozen, x0, xt, t)
		l.Total = s.Add(l.MSE, l.VB)
	}
	return l
}

// variationalBound returns the term L_{t-1} of the bound of each sample in bits, [N]: the KL
// divergence of the reverse step from the true posterior, at t = 0 the decoder's negative log
// likelihood (_vb_terms_bpd of the original).
func (d *Diffusion) variationalBound(s *torch.Scope, output, x0, xt *torch.Tensor, t []int) *torch.Tensor {
	k := gather(s, t, d.PosteriorMeanCoef1, d.PosteriorMeanCoef2, d.PosteriorLogVarianceClipped)
	trueMean := s.Add(s.Mul(k[0], x0), s.Mul(k[1], xt))
	p := d.predict(s, output, xt, t)
	bits := meanFlat(s, normalKL(s, trueMean, k[2], p.mean, p.logVar))
	if slices.Contains(t, 0) {
		nll := s.Neg(meanFlat(s, discretizedLogLikelihood(s, x0, p.mean, s.MulScalar(p.logVar, 0.5))))
		steps := make([]int64, len(t))
		for i, v := range t {
			steps[i] = int64(v)
		}
		bits = s.Where(s.EqScalar(torch.From(s, steps, len(t)), 0), nll, bits)
	}
	return s.MulScalar(bits, 1/math.Ln2)
}

// normalKL is the divergence of N(mean1, exp(logVar1)) from N(mean2, exp(logVar2)) in nats, by element.
func normalKL(s *torch.Scope, mean1, logVar1, mean2, logVar2 *torch.Tensor) *torch.Tensor {
	diff := s.Subtract(logVar2, logVar1)
	sum := s.Add(s.AddScalar(diff, -1), s.Exp(s.Neg(diff)))
	sum = s.Add(sum, s.Mul(s.Square(s.Subtract(mean1, mean2)), s.Exp(s.Neg(logVar2))))
	return s.MulScalar(sum, 0.5)
}

// discretizedLogLikelihood is the log probability of the bin of width 2/255 around x under a normal
// distribution, by element; the outermost bins are open. The bins are those of 8-bit pixels in
// [-1, 1], which the original keeps for latents.
func discretizedLogLikelihood(s *torch.Scope, x, mean, logScale *torch.Tensor) *torch.Tensor {
	centered := s.Subtract(x, mean)
	inv := s.Exp(s.Neg(logScale))
	plus := normalCDF(s, s.Mul(inv, s.AddScalar(centered, 1.0/255)))
	minus := normalCDF(s, s.Mul(inv, s.AddScalar(centered, -1.0/255)))
	floor := func(p *torch.Tensor) *torch.Tensor { return s.Log(s.Clamp(p, 1e-12, math.Inf(1))) }
	one := s.Ones(torch.Float32, 1)
	upper := s.Where(s.GtScalar(x, 0.999), floor(s.Subtract(one, minus)), floor(s.Subtract(plus, minus)))
	return s.Where(s.LtScalar(x, -0.999), floor(plus), upper)
}

// normalCDF is the tanh approximation of the standard normal distribution function.
func normalCDF(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	inner := s.MulScalar(s.Add(x, s.MulScalar(s.PowScalar(x, 3), 0.044715)), math.Sqrt(2/math.Pi))
	return s.MulScalar(s.AddScalar(s.Tanh(inner), 1), 0.5)
}

// meanFlat averages x [N, ...] over all but the first dimension.
func meanFlat(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.MeanDims(s.Reshape(x, x.Dim(0), -1), false, 1)
}
