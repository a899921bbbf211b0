package schedule

import (
	"fmt"
	"math"
	"slices"
)

// A Grid is the levels that a solver goes through, from noise to data: N+1 for N steps. The network is asked at all but
// the last.
type Grid []Level

// Reversed returns the grid from data to noise.
func (g Grid) Reversed() Grid {
	r := slices.Clone(g)
	slices.Reverse(r)
	return r
}

// Grid returns the steps of a process, from noise to data: DiT's own respacing. The last level is free of noise; where
// the grid is reversed, the network is told there what it is told at the first step.
func (s *Schedule) Grid() Grid {
	g := Grid{{T: float64(s.TimestepMap[0]), Alpha: 1}}
	for t, step := range s.TimestepMap {
		g = append(g, Level{T: float64(step), Alpha: s.SqrtAlphasCumprod[t], Sigma: s.SqrtOneMinusAlphasCumprod[t]})
	}
	return g.Reversed()
}

// A Spacing says where the levels of a grid lie.
type Spacing string

// The spacings. Those of DiT's betas are diffusers', with its names for timestep_spacing; leading and trailing are for
// a process of whole steps, which a flow is not.
const (
	Linspace    Spacing = "linspace" // evenly in time
	Leading     Spacing = "leading"  // every so many steps, never step 0
	LeadingZero Spacing = "leading0" // the same down to step 0, as diffusers' DDIM has it
	Trailing    Spacing = "trailing" // every so many steps, from the last one down
	Karras      Spacing = "karras"   // evenly in rho^(1/7) (Karras et al. 2022, equation 5)
	Lambda      Spacing = "lambda"   // evenly in lambda (Lu et al. 2022)
)

const (
	ditSteps  = 1000
	rhoKarras = 7
)

// ditRhos returns sigma/alpha of DiT's steps in float32, as diffusers computes it: its alphas_cumprod is a float32
// product, so rho of step 0 is 0.0100013 where float64 has 0.0100005.
func ditRhos() []float64 {
	const first, last = float32(1e-4), float32(0.02)
	step := (last - first) / (ditSteps - 1)
	rhos := make([]float64, ditSteps)
	bar := 1.0 // of torch.cumprod, which accumulates in float64 and rounds each product
	for t := range rhos {
		// torch.linspace counts from the nearer end, with fused multiply-adds.
		beta := float32(float64(first) + float64(step)*float64(t))
		if t >= ditSteps/2 {
			beta = float32(float64(last) - float64(step)*float64(ditSteps-1-t))
		}
		bar *= float64(1 - beta)
		abar := float32(bar)
		rhos[t] = float64(float32(math.Sqrt(float64((1 - abar) / abar))))
	}
	return rhos
}

// ditLevel returns the level of DiT's process whose sigma/alpha is rho.
func ditLevel(t, rho float64) Level {
	rho = float64(float32(rho))
	alpha := 1 / math.Sqrt(rho*rho+1)
	return Level{T: t, Alpha: alpha, Sigma: rho * alpha}
}

// A Final is the level that a grid of DiT's betas ends at, by diffusers' names for final_sigmas_type.
type Final string

// The ends.
const (
	FinalZero Final = "zero"      // free of noise
	FinalMin  Final = "sigma_min" // the noise of step 0
)

// DiTGrid returns n steps on DiT's betas as diffusers makes them.
func DiTGrid(spacing Spacing, n int, final Final) (Grid, error) {
	if n < 1 || n >= ditSteps {
		return nil, fmt.Errorf("%d steps on DiT's %d: want 1 to %d", n, ditSteps, ditSteps-1)
	}
	steps := make([]float64, n)
	rhos := ditRhos()
	switch spacing {
	case Linspace:
		for i := range steps {
			steps[i] = math.RoundToEven(float64(n-i) * (float64(ditSteps-1) / float64(n)))
		}
	case Leading:
		for i := range steps {
			steps[i] = float64((n - i) * (ditSteps / (n + 1)))
		}
	case LeadingZero:
		for i := range steps {
			steps[i] = float64((n - 1 - i) * (ditSteps / n))
		}
	case Trailing:
		for i := range steps {
			steps[i] = math.RoundToEven(ditSteps-float64(i)*(ditSteps/float64(n))) - 1
		}
	case Karras, Lambda:
		return ditGridOfRhos(rhos, spaceRhos(spacing, rhos[ditSteps-1], rhos[0], n), final)
	default:
		return nil, unknownSpacing(spacing)
	}
	return DiTGridOf(steps, final)
}

// DiTGridOf returns the grid of the given steps of DiT's process, whole numbers that fall.
func DiTGridOf(steps []float64, final Final) (Grid, error) {
	rhos := ditRhos()
	var g Grid
	for i, t := range steps {
		if t != math.Trunc(t) || t < 0 || t >= ditSteps {
			return nil, fmt.Errorf("timestep %v: want a whole number from 0 to %d", t, ditSteps-1)
		}
		if i > 0 && t >= steps[i-1] {
			return nil, fmt.Errorf("timestep %v after %v: want falling ones", t, steps[i-1])
		}
		g = append(g, ditLevel(t, rhos[int(t)]))
	}
	return finish(g, rhos[0], final)
}

// ditGridOfRhos returns the levels at these values of sigma/alpha, told as the steps nearest to them.
func ditGridOfRhos(rhos, at []float64, final Final) (Grid, error) {
	logs := make([]float64, len(rhos))
	for t, rho := range rhos {
		logs[t] = float64(float32(math.Log(rho)))
	}
	var g Grid
	for _, rho := range at {
		log := math.Log(max(rho, 1e-10))
		low := min(max(countNotAbove(logs, log)-1, 0), len(logs)-2)
		w := min(max((logs[low]-log)/(logs[low]-logs[low+1]), 0), 1)
		g = append(g, ditLevel(math.RoundToEven((1-w)*float64(low)+w*float64(low+1)), rho))
	}
	return finish(g, rhos[0], final)
}

// countNotAbove returns how many of sorted are at most v.
func countNotAbove(sorted []float64, v float64) int {
	n, _ := slices.BinarySearchFunc(sorted, v, func(a, v float64) int {
		if a <= v {
			return -1
		}
		return 1
	})
	return n
}

func finish(g Grid, rhoMin float64, final Final) (Grid, error) {
	if len(g) == 0 {
		return nil, fmt.Errorf("no timesteps")
	}
	t := g[len(g)-1].T
	switch final {
	case FinalZero:
		return append(g, Level{T: t, Alpha: 1}), nil
	case FinalMin:
		return append(g, ditLevel(t, rhoMin)), nil
	}
	return nil, fmt.Errorf("final sigma %q: want %s or %s", final, FinalZero, FinalMin)
}

// spaceRhos returns n values of sigma/alpha from first to last.
func spaceRhos(spacing Spacing, first, last float64, n int) []float64 {
	to := func(rho float64) float64 { return math.Pow(rho, 1./rhoKarras) }
	from := func(v float64) float64 { return math.Pow(v, rhoKarras) }
	if spacing == Lambda {
		to, from = math.Log, math.Exp
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = from(to(first) + float64(i)/float64(max(n-1, 1))*(to(last)-to(first)))
	}
	return out
}

// Grid returns n steps on a path from the time start to the time end. Karras and Lambda keep 0.001 from the ends of the
// path, where their noise levels are infinite; the first and the last level are at start and end all the same.
// All times become [Shift] of them, with t as the network is told it: LightningDiT, which has noise at t = 0, samples
// with 0.3, RAE, which has it at 1, with the root of the latent's elements over 4096, 6.93.
func (p Path) Grid(spacing Spacing, n int, start, end, shift float64) (Grid, error) {
	if n < 1 {
		return nil, fmt.Errorf("%d steps: want at least 1", n)
	}
	times := make([]float64, n+1)
	switch spacing {
	case Linspace:
		for i := range times {
			times[i] = start + float64(i)/float64(n)*(end-start)
		}
	case Karras, Lambda:
		const margin = 1e-3
		inside := func(t float64) float64 { return p.At(min(max(t, margin), 1-margin)).Rho() }
		for i, rho := range spaceRhos(spacing, inside(start), inside(end), n+1) {
			times[i] = p.timeOf(-math.Log(rho))
		}
	case Leading, LeadingZero, Trailing:
		return nil, fmt.Errorf("grid %s is for DiT's %d steps, a flow has none: want %s, %s or %s",
			spacing, ditSteps, Linspace, Karras, Lambda)
	default:
		return nil, unknownSpacing(spacing)
	}
	times[0], times[n] = start, end
	return p.GridOf(times, shift)
}

// GridOf returns the levels at the given times, from noise to data, shifted as by [Path.Grid].
func (p Path) GridOf(times []float64, shift float64) (Grid, error) {
	if err := CheckShift(shift); err != nil {
		return nil, err
	}
	if len(times) < 2 {
		return nil, fmt.Errorf("%d times: want at least 2", len(times))
	}
	var g Grid
	for i, t := range times {
		if !(t >= 0 && t <= 1) {
			return nil, fmt.Errorf("time %v is outside of 0 to 1", t)
		}
		if i > 0 && !(p.fromNoise(t) > p.fromNoise(times[i-1])) {
			return nil, fmt.Errorf("time %v after %v: want times from noise, at %v, to data, at %v",
				t, times[i-1], p.fromNoise(0), p.fromNoise(1))
		}
		g = append(g, p.At(Shift(t, shift)))
	}
	return g, nil
}

// Shift returns s t / (1 + (s - 1) t): above 1 it crowds times near 1, below 1 near 0.
func Shift(t, s float64) float64 { return s * t / (1 + (s-1)*t) }

// MaxShift is the greatest shift of times. It is far above any that is of use; beyond it times would be no more than
// their ends.
const MaxShift = 1e6

// CheckShift returns an error for a shift that is not above 0, up to [MaxShift].
func CheckShift(s float64) error {
	if !(s > 0) || s > MaxShift {
		return fmt.Errorf("timestep shift %v: want a positive number up to %g, 1 for none", s, float64(MaxShift))
	}
	return nil
}

func unknownSpacing(spacing Spacing) error {
	return fmt.Errorf("grid %q: want %s, %s, %s, %s or %s", spacing, Linspace, Leading, Trailing, Karras, Lambda)
}
