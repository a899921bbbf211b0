package gaussian

import (
	"math"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// An Objective trains a model to predict the noise and, where it has channels for that, the variance (training_losses
// of the original with LossType.MSE). Times are the steps of the process, Int64.
type Objective struct {
	process
	minSNR *torch.Tensor // [1, T], the weights of the error of the noise; nil for 1
}

// NewObjective has its tables in s.
func NewObjective(s *torch.Scope, d *schedule.Schedule) *Objective {
	return &Objective{process: newProcess(s, d)}
}

// MinSNR weighs the error of the noise in [diffusion.Losses.Total] by min(SNR, gamma) / SNR
// ([schedule.Schedule.MinSNR]). The variational bound and MSE stay as they are. The weights are in s.
func (o *Objective) MinSNR(s *torch.Scope, gamma float64) error {
	weights, err := o.Schedule.MinSNR(gamma)
	if err != nil {
		return err
	}
	o.minSNR = table(s, weights)
	return nil
}

// Time returns the steps floor(u T).
func (o *Objective) Time(s *torch.Scope, u *torch.Tensor) *torch.Tensor {
	steps := float64(o.Len())
	// The conversion cuts off what is behind the point.
	return s.Clamp(s.To(s.MulScalar(u, steps), torch.Int64), 0, steps-1)
}

// Noisiness returns t / T.
func (o *Objective) Noisiness(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	return s.Div(s.To(t, torch.Float64), s.Full(float64(o.Len()), torch.Float64))
}

// Losses noises x0 [N, C, H, W] with noise to the steps t and scores the model's prediction of the noise.
func (o *Objective) Losses(s *torch.Scope, model diffusion.Denoiser, x0, noise, t *torch.Tensor) diffusion.Losses {
	k := lookUp(s, o.coefficients, t)
	xt := noised(s, k, x0, noise)
	output := model(s, xt, o.told(s, t))
	c := x0.Dim(1)
	eps := output
	if output.Dim(1) == 2*c {
		eps = s.Narrow(output, 1, 0, c)
	}
	l := diffusion.Losses{MSE: meanFlat(s, s.Square(s.Subtract(noise, eps)))}
	l.Total = l.MSE
	if o.minSNR != nil {
		l.Total = s.Mul(s.Reshape(s.IndexSelect(o.minSNR, 1, t), -1), l.MSE)
	}
	if output.Dim(1) == 2*c {
		// The bound trains the variance, not the noise: the noise enters as a constant.
		frozen := s.Cat([]*torch.Tensor{s.Detach(eps), s.Narrow(output, 1, c, c)}, 1)
		l.VB = variationalBound(s, frozen, x0, xt, t, k)
		l.Total = s.Add(l.Total, l.VB)
	}
	return l
}

// variationalBound returns the term L_{t-1} of the bound of each sample in bits, [N]: the KL
// divergence of the reverse step from the true posterior, at t = 0 the decoder's negative log
// likelihood (_vb_terms_bpd of the original).
func variationalBound(s *torch.Scope, output, x0, xt, t *torch.Tensor, k coefficients) *torch.Tensor {
	trueMean := s.Add(s.Mul(k.row(s, meanOfX0), x0), s.Mul(k.row(s, meanOfXt), xt))
	p := predict(s, output, xt, k)
	kl := meanFlat(s, normalKL(s, trueMean, k.row(s, logVarLow), p.mean, p.logVar))
	nll := s.Neg(meanFlat(s, discretizedLogLikelihood(s, x0, p.mean, s.MulScalar(p.logVar, 0.5))))
	return s.MulScalar(s.Where(s.EqScalar(t, 0), nll, kl), 1/math.Ln2)
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
