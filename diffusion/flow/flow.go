// Package flow trains models of velocities, and other predictions, on the paths from noise to data of SiT (Ma et al.
// 2024), REPA, LightningDiT and RAE. Package solver draws with them.
//
// Everything here is on the device. Coefficients of a path are computed there in float64, from the time that the
// network is told, and rounded to the type of the samples where they meet them.
//
// Shape letters: N batch, C channels, H and W height and width.
package flow

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// A Level is [schedule.Level] of each sample, Float64 [N] each.
type Level struct{ Alpha, Sigma, DAlpha, DSigma *torch.Tensor }

// At returns the levels of a path at times t [N].
func At(s *torch.Scope, p schedule.Path, t *torch.Tensor) Level {
	u := s.To(t, torch.Float64) // the time from noise, 0, to data, 1
	r := s.AddScalar(s.Neg(u), 1)
	if p.NoiseAtOne {
		u, r = r, u
	}
	var l Level
	switch p.Kind {
	case schedule.Linear:
		one := s.Ones(torch.Float64, t.Dim(0))
		l = Level{Alpha: u, DAlpha: one, Sigma: r, DSigma: s.Neg(one)}
	case schedule.GVP:
		// The sine of what is left of the path, not the cosine of what is done: it is exactly 0 at data.
		const quarter = math.Pi / 2
		sin, cos := s.Sin(s.MulScalar(u, quarter)), s.Sin(s.MulScalar(r, quarter))
		l = Level{Alpha: sin, DAlpha: s.MulScalar(cos, quarter), Sigma: cos, DSigma: s.MulScalar(sin, -quarter)}
	case schedule.VP:
		const a, b = (schedule.VPMax - schedule.VPMin) / 4, schedule.VPMin / 2
		logAlpha := s.Neg(s.Mul(r, s.AddScalar(s.MulScalar(r, a), b)))
		slope := s.AddScalar(s.MulScalar(r, 2*a), b)
		l.Alpha = s.Exp(logAlpha)
		l.DAlpha = s.Mul(l.Alpha, slope)
		l.Sigma = s.PowScalar(s.AddScalar(s.Neg(s.Exp(s.MulScalar(logAlpha, 2))), 1), 0.5)
		l.DSigma = s.Neg(s.Div(s.Mul(l.Alpha, l.DAlpha), l.Sigma))
	default:
		panic(fmt.Sprintf("path %q", p.Kind))
	}
	if p.NoiseAtOne {
		l.DAlpha, l.DSigma = s.Neg(l.DAlpha), s.Neg(l.DSigma)
	}
	return l
}

// wronskian is alpha' sigma - alpha sigma'.
func (l Level) wronskian(s *torch.Scope) *torch.Tensor {
	return s.Subtract(s.Mul(l.DAlpha, l.Sigma), s.Mul(l.Alpha, l.DSigma))
}

// Diffusion is [schedule.Level.Diffusion].
func (l Level) Diffusion(s *torch.Scope) *torch.Tensor {
	return s.Div(s.Mul(l.Sigma, s.Abs(l.wronskian(s))), l.Alpha)
}

// mix returns a x + b y for coefficients a and b [N] of samples x and y.
func mix(s *torch.Scope, a, x, b, y *torch.Tensor) *torch.Tensor {
	return s.Add(s.Mul(like(s, a, x), x), s.Mul(like(s, b, y), y))
}

// like makes v [N] multiply samples x [N, ...]: it is rounded to their type, once.
func like(s *torch.Scope, v, x *torch.Tensor) *torch.Tensor {
	dims := make([]int, x.Rank())
	dims[0] = -1
	for i := range dims[1:] {
		dims[i+1] = 1
	}
	return s.Reshape(s.To(v, x.DType()), dims...)
}

// Velocity returns dx/dt, which is what a probability flow follows.
func (l Level) Velocity(s *torch.Scope, p schedule.Prediction, x, output *torch.Tensor) *torch.Tensor {
	switch p {
	case schedule.Velocity:
		return output
	case schedule.Data:
		return mix(s, s.Div(l.DSigma, l.Sigma), x, s.Div(l.wronskian(s), l.Sigma), output)
	}
	of := s.Mul(l.wronskian(s), l.ofNoise(s, p))
	return mix(s, s.Div(l.DAlpha, l.Alpha), x, s.Neg(s.Div(of, l.Alpha)), output)
}

// ofNoise returns eps / output for predictions of noise and of the score.
func (l Level) ofNoise(s *torch.Scope, p schedule.Prediction) *torch.Tensor {
	if p == schedule.Score {
		return s.Neg(l.Sigma)
	}
	return s.Ones(torch.Float64, l.Sigma.Dim(0))
}
