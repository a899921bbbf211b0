package solver

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/diffusion/schedule"
)

// The solvers below go through a grid with one call of the network at each level but the last. s is the level of the
// call, t the next one, h = lambda_t - lambda_s; m_0 is from this call, m_1 from the one before.

// few is the number of steps below which the last two steps have lower orders (lower_order_final of diffusers).
const few = 15

// orders returns the order of each of n steps: as many as there are calls before allow, and less at the end where steps
// are few. Towards a level free of noise, where lambda is infinite, only the first order goes.
func orders(order int, g schedule.Grid) []int {
	n := len(g) - 1
	out := make([]int, n)
	for i := range out {
		out[i] = min(order, i+1)
		if n < few {
			out[i] = min(out[i], n-i)
		}
	}
	if g[n].Sigma == 0 {
		out[n-1] = 1
	}
	return out
}

// finite moves the first level of a grid off pure noise, where lambda is infinite, as diffusers' UniPC does.
func finite(p *schedule.Path, g schedule.Grid) schedule.Grid {
	if g[0].Alpha > 0 || p == nil {
		return g
	}
	return append(schedule.Grid{p.At(math.Abs(g[0].T - 1e-6))}, g[1:]...)
}

// lambdaSteps returns h of each step. That of the last one is 0 where a grid ends at the level before.
func lambdaSteps(g schedule.Grid) []float64 {
	h := make([]float64, len(g)-1)
	for i := range h {
		h[i] = g[i+1].Lambda() - g[i].Lambda()
	}
	return h
}

// ddim is Song et al. 2021 with their eta, on any path: alpha_t x_0 + sqrt(sigma_t^2 - sigma^2) eps + sigma z, with
// sigma = eta sigma_t sqrt(1 - (alpha_s sigma_t / (alpha_t sigma_s))^2).
func ddim(g schedule.Grid, p schedule.Prediction, eta float64) []call {
	var calls []call
	for i, s := range g[:len(g)-1] {
		t := g[i+1]
		var sigma float64
		if eta != 0 {
			r := s.Alpha * t.Sigma / (t.Alpha * s.Sigma)
			sigma = eta * t.Sigma * math.Sqrt(1-r*r)
		}
		x := sum{ofNoise: sigma}
		if t.Alpha != 0 {
			x = x.plus(t.Alpha, of(s.DataFrom(p)))
		}
		if c := math.Sqrt(t.Sigma*t.Sigma - sigma*sigma); c != 0 {
			x = x.plus(c, of(s.NoiseFrom(p)))
		}
		calls = append(calls, call{t: s.T, start: s.T, draws: eta != 0, x: x})
	}
	return calls
}

// ddimBack is the way back of [ddim] without eta, from data towards noise. DDIM asks the network at the noisier end of
// a step. Its way back does not have that end yet and asks at the other one (ddim_reverse_sample of DiT), so it does
// not quite undo DDIM. Each correction makes the step again, with the noise that the network predicts where the step
// ended: the sample that DDIM would have come from is a fixed point of this.
func ddimBack(g schedule.Grid, p schedule.Prediction, corrections int) []call {
	var calls []call
	for i, s := range g[:len(g)-1] {
		t := g[i+1]
		scale := t.Alpha / s.Alpha
		at, base := s, ofX
		for range 1 + corrections {
			c := call{t: at.T, start: s.T, x: term(base, scale), base: term(base, 1)}
			c.x = c.x.plus(t.Sigma-scale*s.Sigma, of(at.NoiseFrom(p)))
			calls = append(calls, c)
			at, base = t, ofBase
		}
	}
	return calls
}

// dpm is DPM-Solver++ (Lu et al. 2022b), multistep, of the given order. Of the second order there are two kinds,
// midpoint, the usual one, and heun.
func dpm(g schedule.Grid, p schedule.Prediction, order int, heun bool) []call {
	h := lambdaSteps(g)
	var calls []call
	for i, o := range orders(order, g) {
		s, t, h0 := g[i], g[i+1], h[i]
		e := math.Expm1(-h0)
		x := term(ofX, t.Sigma/s.Sigma).plus(-t.Alpha*e, term(ofM0, 1))
		if o > 1 && h0 > 0 {
			r0 := h[i-1] / h0
			d1 := sum{ofM0: 1 / r0, ofM1: -1 / r0}
			if o == 2 && !heun {
				x = x.plus(-t.Alpha*e/2, d1)
			} else {
				if o == 3 {
					r1 := h[i-2] / h0
					d11 := sum{ofM1: 1 / r1, ofM2: -1 / r1}
					difference := d1.plus(-1, d11)
					d2 := sum{}.plus(1/(r0+r1), difference)
					d1 = d1.plus(r0/(r0+r1), difference)
					x = x.plus(-t.Alpha*((e+h0)/(h0*h0)-0.5), d2)
				}
				x = x.plus(t.Alpha*(e/h0+1), d1)
			}
		}
		calls = append(calls, call{t: s.T, start: s.T, m0: s.DataFrom(p), x: x})
	}
	return calls
}

// uniPC is UniPC (Zhao et al. 2023) in its form for x_0: a predictor and, from the second call on, a corrector of the
// sample that the predictor before made. Its B(h) is h (bh1) or e^h - 1 (bh2). The base is the last corrected sample.
func uniPC(g schedule.Grid, p schedule.Prediction, order int, bh1 bool) ([]call, error) {
	h := lambdaSteps(g)
	n := len(h)
	if bh1 && math.IsInf(h[n-1], 1) {
		return nil, fmt.Errorf("bh1 has no step to a level free of noise, over which lambda grows without end: " +
			"want bh2 or a final sigma above 0")
	}
	var calls []call
	last := 0 // the order of the predictor before
	for i := range n {
		s := g[i]
		c := call{t: s.T, start: s.T, m0: s.DataFrom(p), base: term(ofX, 1)}
		if i > 0 {
			c.base = uniStep(g, h, i-1, last, bh1, ofBase, ofM1, true)
		}
		last = min(order, i+1, n-i)
		step := uniStep(g, h, i, last, bh1, ofX, ofM0, false)
		// The predictor begins at the corrected sample.
		f := step[ofX]
		step[ofX] = 0
		c.x = step.plus(f, c.base)
		calls = append(calls, c)
	}
	return calls, nil
}

// uniStep returns the step from level i to the next by the sample from and the outputs m_0, m_1, ... that begin at the
// term m0. A corrector also uses the output at the end of the step, the term before.
func uniStep(g schedule.Grid, h []float64, i, order int, bh1 bool, from, m0 int, corrector bool) sum {
	s, t, hh := g[i], g[i+1], -h[i]
	phi := math.Expm1(hh)
	x := term(from, t.Sigma/s.Sigma).plus(-t.Alpha*phi, term(m0, 1))
	if h[i] == 0 || order == 1 && !corrector {
		return x
	}
	b := phi
	if bh1 {
		b = hh
	}
	// The differences D_i / r_i, with r_i from the level to older ones, and 1 for the end of the step.
	var r []float64
	var d []sum
	for j := 1; j < order; j++ {
		r = append(r, (g[i-j].Lambda()-s.Lambda())/h[i])
		d = append(d, sum{}.plus(1/r[j-1], term(m0+j, 1).plus(-1, term(m0, 1))))
	}
	if corrector {
		r = append(r, 1)
		d = append(d, term(m0-1, 1).plus(-1, term(m0, 1)))
	}
	weights := []float64{0.5} // of one difference, as the original has it for all h
	if len(d) > 1 {
		weights = solveMoments(r, hh, b)
	}
	for j := range d {
		x = x.plus(-t.Alpha*b*weights[j], d[j])
	}
	return x
}

// solveMoments returns rho with sum_j rho_j r_j^(k-1) = k! phi_(k+1)(hh) hh / B for k from 1 on.
func solveMoments(r []float64, hh, b float64) []float64 {
	n := len(r)
	rows := make([][]float64, n)
	phi, factorial := math.Expm1(hh)/hh-1, 1.0
	for k := range rows {
		rows[k] = make([]float64, n+1)
		for j := range r {
			rows[k][j] = math.Pow(r[j], float64(k))
		}
		rows[k][n] = phi * factorial / b
		factorial *= float64(k + 2)
		phi = phi/hh - 1/factorial
	}
	// Gauss and Jordan without pivots, which the powers of different r do not need.
	for k := range rows {
		for i := range rows {
			if i == k {
				continue
			}
			f := rows[i][k] / rows[k][k]
			for j := range rows[i] {
				rows[i][j] -= f * rows[k][j]
			}
		}
	}
	out := make([]float64, n)
	for k := range out {
		out[k] = rows[k][n] / rows[k][k]
	}
	return out
}

// deis is DEIS (Zhang and Chen 2023) with polynomials in ln rho: x_t / alpha_t is x_s / alpha_s plus the integral over
// rho of the polynomial through the last values of eps. Its constant part is DDIM, written so that nothing cancels
// where alpha_s is small.
func deis(g schedule.Grid, p schedule.Prediction, order int) []call {
	h := lambdaSteps(g)
	calls := ddim(g, p, 0)
	for i, o := range orders(order, g) {
		calls[i].m0 = g[i].NoiseFrom(p)
		if h[i] == 0 {
			calls[i].x = term(ofX, 1)
			continue
		}
		for j := 1; j < o; j++ {
			c := g[i+1].Alpha * logPolynomial(g, i, o, j)
			calls[i].x = calls[i].x.plus(c, term(ofM0+j, 1).plus(-1, term(ofM0, 1)))
		}
	}
	return calls
}

// logPolynomial integrates over rho, from level i to the next, the polynomial in ln rho that is 1 at level i-j and 0 at
// the others of the levels i to i-order+1.
func logPolynomial(g schedule.Grid, i, order, j int) float64 {
	// With y = ln rho the integral of (y - c) is rho (y - c - 1), that of (y - c)(y - d) is
	// rho (y^2 - (c + d + 2) y + c d + c + d + 2).
	ln := func(k int) float64 { return math.Log(g[i-k].Rho()) }
	var zeros []float64
	scale := 1.0
	for k := range order {
		if k != j {
			zeros = append(zeros, ln(k))
			scale *= ln(j) - ln(k)
		}
	}
	integral := func(rho float64) float64 {
		y := math.Log(rho)
		if len(zeros) == 1 {
			return rho * (y - zeros[0] - 1)
		}
		c, d := zeros[0], zeros[1]
		return rho * (y*y - (c+d+2)*y + c*d + c + d + 2)
	}
	return (integral(g[i+1].Rho()) - integral(g[i].Rho())) / scale
}
