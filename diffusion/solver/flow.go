package solver

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/diffusion/schedule"
)

// A tableau is Butcher's: stage j asks about x + h sum_l a_jl f_l at t + c_j h, and the step is h sum_j b_j f_j.
type tableau struct {
	c []float64
	a [][]float64
	b []float64
}

// The methods are torchdiffeq's: its rk4 is the 3/8 rule, not the classic one.
var tableaus = map[string]tableau{
	"euler":    {c: []float64{0}, a: [][]float64{nil}, b: []float64{1}},
	"heun":     {c: []float64{0, 1}, a: [][]float64{nil, {1}}, b: []float64{1. / 2, 1. / 2}},
	"midpoint": {c: []float64{0, 1. / 2}, a: [][]float64{nil, {1. / 2}}, b: []float64{0, 1}},
	"heun3": {c: []float64{0, 1. / 3, 2. / 3}, a: [][]float64{nil, {1. / 3}, {0, 2. / 3}},
		b: []float64{1. / 4, 0, 3. / 4}},
	"rk4": {c: []float64{0, 1. / 3, 2. / 3, 1}, a: [][]float64{nil, {1. / 3}, {-1. / 3, 1}, {1, -1, 1}},
		b: []float64{1. / 8, 3. / 8, 3. / 8, 1. / 8}},
}

// rungeKutta follows the probability flow dx/dt = v through a grid. The base is the sample at the start of the step.
// eulerLast makes the last step one of Euler, as REPA's Heun does.
func rungeKutta(path schedule.Path, g schedule.Grid, p schedule.Prediction, method tableau, eulerLast bool) []call {
	var calls []call
	for i, s := range g[:len(g)-1] {
		h := g[i+1].T - s.T
		if eulerLast && i == len(g)-2 {
			method = tableaus["euler"]
		}
		for j := range method.c {
			at := path.At(s.T + method.c[j]*h)
			if method.c[j] == 1 {
				at = g[i+1]
			}
			weights := method.b // of what x becomes: the next stage or, at last, the end of the step
			if j+1 < len(method.a) {
				weights = method.a[j+1]
			}
			base := term(ofBase, 1)
			if j == 0 {
				base = term(ofX, 1)
			}
			c := call{t: at.T, start: s.T, m0: at.VelocityFrom(p), x: base, base: base}
			for l, w := range weights {
				c.x = c.x.plus(h*w, term(ofM0+j-l, 1))
			}
			calls = append(calls, c)
		}
	}
	return calls
}

// A DiffusionForm is a function D of time, by SiT's names for diffusion_form. Time runs from noise, 0, to data, 1.
type DiffusionForm string

// The forms. The last is spelt "inccreasing-decreasing" in SiT, which refuses the name that its own command offers.
const (
	FormConstant             DiffusionForm = "constant"              // norm; an error in SiT
	FormSBDM                 DiffusionForm = "SBDM"                  // norm times [schedule.Level.Diffusion]
	FormSigma                DiffusionForm = "sigma"                 // norm sigma
	FormLinear               DiffusionForm = "linear"                // norm (1 - t)
	FormDecreasing           DiffusionForm = "decreasing"            // (norm cos(pi t) + 1)^2 / 4
	FormIncreasingDecreasing DiffusionForm = "increasing-decreasing" // norm sin(pi t)^2
)

// at returns D at a level of a path.
func (f DiffusionForm) at(path schedule.Path, l schedule.Level, norm float64) (float64, error) {
	t := l.T
	if path.NoiseAtOne {
		t = 1 - t
	}
	switch f {
	case FormConstant:
		return norm, nil
	case FormSBDM:
		if l.Alpha == 0 {
			return 0, fmt.Errorf("diffusion form %s divides by zero at time %v of path %s, where alpha is 0: "+
				"begin 0.001 from it", f, l.T, path.Kind)
		}
		return norm * l.Diffusion(), nil
	case FormSigma:
		return norm * l.Sigma, nil
	case FormLinear:
		return norm * (1 - t), nil
	case FormDecreasing:
		v := norm*math.Cos(math.Pi*t) + 1
		return v * v / 4, nil
	case FormIncreasingDecreasing:
		v := math.Sin(math.Pi * t)
		return norm * v * v, nil
	}
	return 0, fmt.Errorf("diffusion form %q: want %s, %s, %s, %s, %s or %s", f, FormConstant, FormSBDM, FormSigma,
		FormLinear, FormDecreasing, FormIncreasingDecreasing)
}

// A LastStep says what becomes of samples at the end of an SDE's grid, by SiT's names for last_step.
type LastStep string

// The last steps, all without noise.
const (
	LastMean    LastStep = "Mean"    // a step of the drift of the SDE
	LastTweedie LastStep = "Tweedie" // x_0 as the network says it
	LastEuler   LastStep = "Euler"   // a step of the velocity
	LastNone    LastStep = "None"    // nothing, and no call of the network
)

// An SDE is dx = (v + D s) dt + sqrt(2 D) dw from noise to data, with the score s: SiT's and REPA's, whose w is 2 D.
type SDE struct {
	Form     DiffusionForm // sigma where it is empty
	Norm     float64       // 0 stands for 1
	Last     LastStep      // Mean where it is empty
	LastSize float64       // of the last step, in time before the shift; 0 stands for 0.04
}

// sde follows an SDE through a grid and then makes the last step: by Euler and Maruyama, or by SiT's Heun, which adds
// the noise before it asks the network twice. The times of the grid are shifted, so the last step is too.
func sde(path schedule.Path, g schedule.Grid, p schedule.Prediction, heun bool, shift float64, o SDE) ([]call, error) {
	// Where time runs from data to noise, the score pulls against it.
	sign := 1.0
	if path.NoiseAtOne {
		sign = -1
	}
	drift := func(l schedule.Level, d float64) schedule.Mix {
		return l.VelocityFrom(p).Plus(sign*d, l.ScoreFrom(p))
	}
	var calls []call
	for i, s := range g[:len(g)-1] {
		h := g[i+1].T - s.T
		d, err := o.Form.at(path, s, o.Norm)
		if err != nil {
			return nil, err
		}
		if d < 0 {
			return nil, fmt.Errorf("diffusion form %s of norm %v is %v at time %v: want at least 0",
				o.Form, o.Norm, d, s.T)
		}
		noise := math.Sqrt(2 * d * math.Abs(h))
		first := call{t: s.T, start: s.T, draws: true, m0: drift(s, d), x: sum{ofX: 1, ofM0: h, ofNoise: noise}}
		if !heun {
			calls = append(calls, first)
			continue
		}
		first.churn, first.x[ofNoise], first.base = noise, 0, term(ofX, 1)
		e, err := o.Form.at(path, g[i+1], o.Norm)
		if err != nil {
			return nil, err
		}
		second := call{t: g[i+1].T, start: s.T, m0: drift(g[i+1], e), x: sum{ofBase: 1, ofM0: h / 2, ofM1: h / 2},
			base: term(ofBase, 1)}
		calls = append(calls, first, second)
	}
	s := g[len(g)-1]
	c := call{t: s.T, start: s.T, base: term(ofX, 1), x: term(ofX, 1)}
	// Shift(end) - Shift(begin), in a form that without a shift is LastSize to the bit.
	begin := schedule.Shift(s.T, 1/shift)
	end := begin + sign*o.LastSize
	h := sign * o.LastSize * shift / ((1 + (shift-1)*begin) * (1 + (shift-1)*end))
	switch o.Last {
	case LastMean:
		d, err := o.Form.at(path, s, o.Norm)
		if err != nil {
			return nil, err
		}
		c.x = c.x.plus(h, of(drift(s, d)))
	case LastTweedie:
		c.x = of(s.DataFrom(p))
	case LastEuler:
		c.x = c.x.plus(h, of(s.VelocityFrom(p)))
	case LastNone:
		return calls, nil
	default:
		return nil, fmt.Errorf("last step %q: want %s, %s, %s or %s",
			o.Last, LastMean, LastTweedie, LastEuler, LastNone)
	}
	return append(calls, c), nil
}
