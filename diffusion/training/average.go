package training

import "math"

// averageShare is the width of the average, the number of steps that it reaches back, as a share of the run, where
// [EMADecay] chooses the decay.
const averageShare = 0.1

// EMADecay returns the decay of the average for a run of that many steps: the paper's 0.9999, which averages over the
// last ten thousand steps, for runs of a hundred thousand and more; else one that averages over a tenth of the run.
//
// A fixed decay on a short run leaves its average full of the random weights that it began with: of 0.9999, 79 %
// are left after 2,400 steps. A width that is a share of the run is the rule of Karras et al., "Analyzing and
// Improving the Training Dynamics of Diffusion Models" (2024), section 3; the widths with the best FID of their
// models, without guidance, are 4 to 13.5 % (sigma_rel; of an exponential average it is 1 / (1 - decay) over the
// number of steps). A tenth leaves e^-10 of the first weights, 0.005 %, at the end, and meets the paper's decay at
// a hundred thousand steps.
func EMADecay(steps int) float64 {
	d := 1 - 1/(averageShare*float64(max(steps, 1)))
	if d >= DefaultConfig.EMADecay {
		return DefaultConfig.EMADecay
	}
	if d <= 0 {
		return 0 // the weights themselves
	}
	// Two digits of what is left out, so that a person can type it: 0.9958.
	unit := math.Pow(10, math.Ceil(-math.Log10(1-d))+1)
	return math.Round(d*unit) / unit
}

// InitialShare returns which share of the weights that a run begins with is left in their average after steps.
func (c Config) InitialShare(steps int) float64 {
	share := 1.0
	for step := 0; step < steps && share > 1e-9; step++ {
		share *= c.emaDecay(step)
	}
	return share
}
