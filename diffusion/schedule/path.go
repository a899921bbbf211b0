package schedule

import (
	"fmt"
	"math"
)

// A Kind is the shape of a flow path from noise to data, by the name that flags and checkpoints have for it.
type Kind string

// The paths of SiT, with t = 1 at data.
const (
	Linear Kind = "linear" // alpha = t, sigma = 1 - t
	GVP    Kind = "gvp"    // alpha = sin(pi t / 2), sigma = cos(pi t / 2); REPA calls it cosine
	VP     Kind = "vp"     // alpha = exp(L), sigma = sqrt(1 - exp(2 L)), see logAlpha
)

// The betas of VP at data and at noise.
const (
	VPMin = 0.1
	VPMax = 20.0
)

// A Path is a Kind with a direction of time.
type Path struct {
	Kind Kind
	// NoiseAtOne turns time round: noise is at t = 1 and data at 0, as in REPA, RAE, MeanFlow and diffusers. SiT and
	// LightningDiT have noise at t = 0. The velocity is dx/dt in either, so it changes its sign.
	NoiseAtOne bool
}

// ParsePath reads the name of a path.
func ParsePath(kind string, noiseAtOne bool) (Path, error) {
	switch k := Kind(kind); k {
	case Linear, GVP, VP:
		return Path{k, noiseAtOne}, nil
	}
	return Path{}, fmt.Errorf("path %q: want linear, gvp or vp", kind)
}

// fromNoise is the time from noise, 0, to data, 1. It is its own inverse.
func (p Path) fromNoise(t float64) float64 {
	if p.NoiseAtOne {
		return 1 - t
	}
	return t
}

// At returns the level at time t.
func (p Path) At(t float64) Level {
	u := p.fromNoise(t)
	l := Level{T: t}
	switch p.Kind {
	case Linear:
		l.Alpha, l.DAlpha, l.Sigma, l.DSigma = u, 1, 1-u, -1
	case GVP:
		sin, cos := math.Sincos(math.Pi / 2 * u)
		l.Alpha, l.DAlpha, l.Sigma, l.DSigma = sin, math.Pi/2*cos, cos, -math.Pi/2*sin
		if u == 1 {
			l.Sigma, l.DAlpha = 0, 0 // cos(pi / 2) is 6e-17
		}
	case VP:
		logAlpha := -(1-u)*(1-u)*(VPMax-VPMin)/4 - (1-u)*VPMin/2
		slope := (1-u)*(VPMax-VPMin)/2 + VPMin/2
		l.Alpha = math.Exp(logAlpha)
		l.DAlpha = l.Alpha * slope
		l.Sigma = math.Sqrt(-math.Expm1(2 * logAlpha))
		l.DSigma = -l.Alpha * l.DAlpha / l.Sigma
	default:
		panic(fmt.Sprintf("path %q", p.Kind))
	}
	if p.NoiseAtOne {
		l.DAlpha, l.DSigma = -l.DAlpha, -l.DSigma
	}
	return l
}

// timeOf returns the time at which ln(alpha / sigma) is lambda.
func (p Path) timeOf(lambda float64) float64 {
	var u float64
	switch p.Kind {
	case Linear:
		u = 1 / (1 + math.Exp(-lambda))
	case GVP:
		u = 2 / math.Pi * math.Atan(math.Exp(lambda))
	case VP:
		// L = -ln(1 + exp(-2 lambda)) / 2 = -a r^2 - b r with r = 1 - u; this form of the root does not cancel.
		a, b, l := (VPMax-VPMin)/4, VPMin/2, math.Log1p(math.Exp(-2*lambda))/2
		u = 1 - 2*l/(b+math.Sqrt(b*b+4*a*l))
	}
	return p.fromNoise(u)
}

// Margins returns how close to the ends of its path a model is trained and sampled (train_eps and sample_eps of SiT's
// create_transport): 0 where the velocity is finite everywhere, as on Linear and GVP.
func (p Path) Margins(prediction Prediction) (train, sample float64) {
	switch {
	case p.Kind == VP:
		return 1e-5, 1e-3
	case prediction == Velocity:
		return 0, 0
	}
	return 1e-3, 1e-3
}

// TrainInterval returns the least and the greatest time of training (check_interval of SiT).
func (p Path) TrainInterval(prediction Prediction) (lo, hi float64) {
	eps, _ := p.Margins(prediction)
	start, end := p.interval(prediction, eps, eps)
	return min(start, end), max(start, end)
}

// SampleInterval returns the times at which a probability flow begins, at noise, and ends.
func (p Path) SampleInterval(prediction Prediction) (start, end float64) {
	_, eps := p.Margins(prediction)
	return p.interval(prediction, eps, eps)
}

// SDEInterval returns the times at which an SDE begins and at which its last step, of the size last, begins.
func (p Path) SDEInterval(prediction Prediction, last float64) (start, end float64) {
	_, eps := p.Margins(prediction)
	if last == 0 {
		last = eps
	}
	return p.interval(prediction, eps, last)
}

func (p Path) interval(prediction Prediction, first, last float64) (start, end float64) {
	if p.Kind == VP { // its noise still has some of the data in it
		first = 0
	}
	return p.fromNoise(first), p.fromNoise(1 - last)
}
