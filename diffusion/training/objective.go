package training

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/flow"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// Words of a configuration that its package flow does not have.
const (
	onEps            = "eps"
	minSNR           = "min-snr"
	uniformTimes     = "uniform"
	logitNormalTimes = "logit-normal"
)

// minSNRGamma is the value of Hang et al. 2023.
const minSNRGamma = 5

// IsFlow says whether the model follows a path of continuous time, not DiT's 1000 steps.
func (c Config) IsFlow() bool { return cmp.Or(c.Objective, onEps) != onEps }

// Process is what the files of the model say of it.
func (c Config) Process() dit.Process {
	if !c.IsFlow() {
		return dit.Process{}
	}
	p := dit.Process{Objective: c.Objective, Path: string(c.path())}
	if c.TimeShift != 1 {
		p.Shift = c.TimeShift
	}
	return p
}

// predicts is Process without what may change when a run goes on.
func (c Config) predicts() dit.Process {
	p := c.Process()
	p.Shift = 0
	return p
}

// SameObjective returns an error unless a run with now may go on from one with before, as far as the objective goes.
func SameObjective(before, now Config) error {
	if before.predicts() == now.predicts() {
		return nil
	}
	return otherObjective(before.predicts(), now.predicts())
}

// otherObjective is why a run cannot go on with what was trained before.
func otherObjective(before, now dit.Process) error {
	return fmt.Errorf("it was trained on another objective, %s, this run is on %s: --init-from begins a new run with "+
		"its weights", before, now)
}

// timeName says which time t is: a whole number of DiT's steps, or a float32 on a path.
func (c Config) timeName(t float64) string {
	if c.IsFlow() {
		return fmt.Sprintf("time %.4g", t)
	}
	return fmt.Sprintf("timestep %.4g", t)
}

func (c Config) path() schedule.Kind { return cmp.Or(schedule.Kind(c.Path), schedule.Linear) }

func (c Config) lossWeight() string { return cmp.Or(c.LossWeight, string(flow.WeightNone)) }

// validateObjective is Validate of the fields that say what the model is trained on.
func (c Config) validateObjective() error {
	_, unknown := schedule.ParsePrediction(c.Objective)
	switch {
	case c.IsFlow() && unknown != nil:
		return fmt.Errorf("objective %q: want eps, velocity, noise, score or data", c.Objective)
	case !(c.TimeShift > 0) || c.TimeShift > schedule.MaxShift:
		return fmt.Errorf("time-shift %v: want a positive number up to %g, 1 for none", c.TimeShift,
			float64(schedule.MaxShift))
	}
	if _, err := schedule.ParsePath(string(c.path()), false); err != nil {
		return err
	}
	if _, err := c.times(); err != nil {
		return err
	}
	weights := []string{string(flow.WeightNone), string(flow.WeightVelocity), string(flow.WeightLikelihood), minSNR}
	if !slices.Contains(weights, c.lossWeight()) {
		return fmt.Errorf("loss-weight %q: want none, velocity, likelihood or min-snr", c.LossWeight)
	}
	if c.IsFlow() {
		if err := c.Process().Validate(); err != nil { // which checkpoints are read with
			return err
		}
		return c.validateFlow()
	}
	const flows = "for the objectives velocity, noise, score and data; eps is on the 1000 steps of DiT"
	switch {
	case c.Path != "":
		return fmt.Errorf("path %s: %s", c.Path, flows)
	case cmp.Or(c.TimeSampling, uniformTimes) != uniformTimes:
		return fmt.Errorf("time-sampling %s: %s", c.TimeSampling, flows)
	case c.TimeShift != 1:
		return fmt.Errorf("time-shift %v: %s", c.TimeShift, flows)
	case c.lossWeight() != string(flow.WeightNone) && c.LossWeight != minSNR:
		return fmt.Errorf("loss-weight %s: for the objectives noise, score and data; eps takes none or min-snr",
			c.LossWeight)
	}
	return nil
}

func (c Config) validateFlow() error {
	switch weight := c.lossWeight(); {
	case weight == minSNR:
		return fmt.Errorf("loss-weight min-snr: for the objective eps; on a path noise, score and data take velocity " +
			"or likelihood")
	case weight != string(flow.WeightNone) && c.Objective == "velocity":
		return fmt.Errorf("loss-weight %s: the loss of a velocity has no weight (SiT ignores it): want none", weight)
	}
	_, err := c.newFlow()
	return err
}

// times reads how the times of a flow are drawn.
func (c Config) times() (t flow.Times, err error) {
	t.Shift = c.TimeShift
	name, numbers, given := strings.Cut(cmp.Or(c.TimeSampling, uniformTimes), ":")
	t.LogitNormal = name == logitNormalTimes
	wrong := fmt.Errorf("time-sampling %q: want uniform, logit-normal or logit-normal:MEAN,STD, such as "+
		"logit-normal:-0.4,1", c.TimeSampling)
	switch {
	case name != uniformTimes && !t.LogitNormal, given && !t.LogitNormal:
		return t, wrong
	case !given:
		return t, nil
	}
	mean, std, _ := strings.Cut(numbers, ",")
	var ofMean, ofStd error
	t.Mean, ofMean = strconv.ParseFloat(mean, 64)
	t.Std, ofStd = strconv.ParseFloat(std, 64)
	if ofMean != nil || ofStd != nil || math.IsNaN(t.Mean) || math.IsInf(t.Mean, 0) {
		return t, wrong
	}
	if !(t.Std > 0) || math.IsInf(t.Std, 1) {
		return t, fmt.Errorf("time-sampling %q: want a deviation above 0", c.TimeSampling)
	}
	return t, nil
}

func (c Config) newFlow() (*flow.Objective, error) {
	times, err := c.times()
	if err != nil {
		return nil, err
	}
	return flow.New(flow.Config{Path: schedule.Path{Kind: c.path()}, Prediction: schedule.Prediction(c.Objective),
		Weight: flow.Weight(c.lossWeight()), Times: times})
}

// newObjective returns what the model is trained on, with its tables in s.
func (c Config) newObjective(s *torch.Scope) (diffusion.Objective, error) {
	if c.IsFlow() {
		return c.newFlow()
	}
	steps, err := gaussian.New("")
	if err != nil {
		return nil, err
	}
	o := gaussian.NewObjective(s, steps)
	if c.LossWeight == minSNR {
		err = o.MinSNR(s, minSNRGamma)
	}
	return o, err
}
