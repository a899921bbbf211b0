// Package schedule computes the numbers a diffusion process is made of: the
// noise schedule, the steps a sampler keeps, and the coefficients derived from
// them, all in float64. Float32 tables would change results; callers round to
// float32 only the entry they use.
//
// Notation of DDPM (Ho et al. 2020): step t is 0-based, t = 0 is one noising
// step; alpha_t = 1 - beta_t, and the cumulative product of the alphas up to t
// is alphas_cumprod[t].
//
//	full, err := schedule.New(schedule.LinearBetas(1000)) // to train
//	use, err := schedule.Space(1000, "250")
//	s, err := full.Respace(use) // to sample in 250 steps
//
// The original code respaces always, to all steps where none are to be left
// out. That changes the betas in their last bits; Respace does the same.
package schedule

import (
	"errors"
	"fmt"
	"math"
)

// LinearBetas returns the linear schedule of T steps: from 1e-4 to 0.02 for
// 1000 steps, scaled by 1000/T for others. Below 20 steps it leaves the range
// New accepts.
func LinearBetas(T int) []float64 {
	betas := make([]float64, max(T, 0))
	scale := 1000 / float64(T)
	first, last := scale*0.0001, scale*0.02
	step := (last - first) / float64(T-1)
	for i := range betas {
		// The conversion forbids a fused multiply-add, which would round
		// differently from numpy.linspace on some processors.
		betas[i] = float64(float64(i)*step) + first
	}
	switch {
	case T == 1:
		betas[0] = first
	case T > 1:
		betas[T-1] = last
	}
	return betas
}

// CosineBetas returns the cosine schedule of T steps (Nichol and Dhariwal
// 2021), named squaredcos_cap_v2 in the original code.
func CosineBetas(T int) []float64 {
	bar := func(i int) float64 {
		c := math.Cos((float64(i)/float64(T) + 0.008) / 1.008 * math.Pi / 2)
		return c * c
	}
	betas := make([]float64, max(T, 0))
	for i := range betas {
		betas[i] = min(1-bar(i+1)/bar(i), 0.999)
	}
	return betas
}

// Schedule holds the coefficients of a process, one entry a step. The slices
// are not to be modified.
type Schedule struct {
	Betas             []float64
	AlphasCumprod     []float64
	AlphasCumprodPrev []float64 // of step t-1; 1 at t = 0
	AlphasCumprodNext []float64 // of step t+1; 0 at the last step

	// x_t = SqrtAlphasCumprod x_0 + SqrtOneMinusAlphasCumprod eps.
	SqrtAlphasCumprod         []float64
	SqrtOneMinusAlphasCumprod []float64
	LogOneMinusAlphasCumprod  []float64

	// x_0 = SqrtRecipAlphasCumprod x_t - SqrtRecipM1AlphasCumprod eps.
	SqrtRecipAlphasCumprod   []float64
	SqrtRecipM1AlphasCumprod []float64

	// The posterior q(x_{t-1} | x_t, x_0): its mean is PosteriorMeanCoef1 x_0 +
	// PosteriorMeanCoef2 x_t. Its variance is 0 at t = 0, so the logarithm there
	// repeats the one of t = 1 (of a schedule of one step: the log of its beta).
	PosteriorVariance           []float64
	PosteriorLogVarianceClipped []float64
	PosteriorMeanCoef1          []float64
	PosteriorMeanCoef2          []float64

	// LogBetas is the upper bound of the learned log variance,
	// PosteriorLogVarianceClipped the lower.
	LogBetas []float64

	// TimestepMap gives for each step the step of the original process, which
	// is what the network is told. The tables are indexed by the step itself.
	TimestepMap []int
}

// Len is the number of steps.
func (s *Schedule) Len() int { return len(s.Betas) }

// New derives a schedule from its betas, each in (0, 1].
func New(betas []float64) (*Schedule, error) {
	steps := make([]int, len(betas))
	for i := range steps {
		steps[i] = i
	}
	return build(betas, steps)
}

// Respace returns the schedule that keeps the steps in use, strictly ascending
// indices into s: its alphas_cumprod are those of the kept steps, and all other
// tables follow from the betas this takes.
func (s *Schedule) Respace(use []int) (*Schedule, error) {
	betas := make([]float64, len(use))
	steps := make([]int, len(use))
	last := 1.0
	for k, t := range use {
		if t < 0 || t >= s.Len() {
			return nil, fmt.Errorf("respace: step %d of a schedule of %d", t, s.Len())
		}
		if k > 0 && t <= use[k-1] {
			return nil, fmt.Errorf("respace: step %d after step %d, want ascending steps", t, use[k-1])
		}
		betas[k] = 1 - s.AlphasCumprod[t]/last
		last = s.AlphasCumprod[t]
		steps[k] = s.TimestepMap[t]
	}
	return build(betas, steps)
}

func build(betas []float64, steps []int) (*Schedule, error) {
	n := len(betas)
	if n == 0 {
		return nil, errors.New("schedule: no steps")
	}
	for t, b := range betas {
		if !(b > 0 && b <= 1) {
			return nil, fmt.Errorf("schedule: beta of step %d is %v, want a value in (0, 1]", t, b)
		}
	}
	s := &Schedule{TimestepMap: steps}
	for _, table := range []*[]float64{
		&s.Betas, &s.AlphasCumprod, &s.AlphasCumprodPrev, &s.AlphasCumprodNext,
		&s.SqrtAlphasCumprod, &s.SqrtOneMinusAlphasCumprod, &s.LogOneMinusAlphasCumprod,
		&s.SqrtRecipAlphasCumprod, &s.SqrtRecipM1AlphasCumprod,
		&s.PosteriorVariance, &s.PosteriorLogVarianceClipped, &s.PosteriorMeanCoef1, &s.PosteriorMeanCoef2,
		&s.LogBetas,
	} {
		*table = make([]float64, n)
	}
	copy(s.Betas, betas)
	// The operations and their order are those of the original's NumPy code, so
	// that all tables but the logarithms are equal to its bit for bit.
	bar := 1.0
	for t, b := range betas {
		prev := bar
		bar *= 1 - b
		s.AlphasCumprod[t] = bar
		s.AlphasCumprodPrev[t] = prev
		if t > 0 {
			s.AlphasCumprodNext[t-1] = bar
		}
		s.SqrtAlphasCumprod[t] = math.Sqrt(bar)
		s.SqrtOneMinusAlphasCumprod[t] = math.Sqrt(1 - bar)
		s.LogOneMinusAlphasCumprod[t] = math.Log(1 - bar)
		s.SqrtRecipAlphasCumprod[t] = math.Sqrt(1 / bar)
		s.SqrtRecipM1AlphasCumprod[t] = math.Sqrt(1/bar - 1)
		s.PosteriorVariance[t] = b * (1 - prev) / (1 - bar)
		s.PosteriorLogVarianceClipped[t] = math.Log(s.PosteriorVariance[t])
		s.PosteriorMeanCoef1[t] = b * math.Sqrt(prev) / (1 - bar)
		s.PosteriorMeanCoef2[t] = (1 - prev) * math.Sqrt(1-b) / (1 - bar)
		s.LogBetas[t] = math.Log(b)
	}
	if n > 1 {
		s.PosteriorLogVarianceClipped[0] = s.PosteriorLogVarianceClipped[1]
	} else {
		s.PosteriorLogVarianceClipped[0] = s.LogBetas[0]
	}
	return s, nil
}
