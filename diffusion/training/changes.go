package training

import (
	"cmp"
	"fmt"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/internal/names"
)

// Changes says in words in what a run that goes on with cfg after step differs from the one that was, over the same
// samples, as far as its results do: "lr 0.0001 before, 0.0003 now". The names are those of the flags. Another length
// is no difference, unless the rate depends on it: then it is said with both rates. What must not differ is not
// compared, since [Check] refuses it.
func Changes(before, now Config, samples, step int) []string {
	var list []string
	for _, f := range before.differing(now) {
		if f.before != f.now {
			list = append(list, fmt.Sprintf("%s %v before, %v now", f.name, f.before, f.now))
		}
	}
	was, will := before.Steps(samples), now.Steps(samples)
	if was != will && (before.falls() || now.falls()) {
		last, next := before.learningRate(step-1, was), now.learningRate(step, will)
		course := "falls"
		switch w := now.WarmupSteps; {
		case step < w && w < will:
			course = fmt.Sprintf("rises to step %d, then falls", w)
		case step < w:
			course = "rises"
		}
		list = append(list, fmt.Sprintf("the learning rate %s over %s instead of %d: it goes from %.3g "+
			"at step %d to %.3g at step %d (times %.3g)", course, names.Plural(will, "step"), was, last, step, next,
			step+1, next/last))
	}
	return list
}

// falls says whether the learning rate depends on the length of the run.
func (c Config) falls() bool { return c.LRSchedule == "linear" || c.LRSchedule == "cosine" }

// A setting is a field of two configurations, under the name of its flag.
type setting struct {
	name        string
	before, now any
}

// differing lists the fields that may differ and change the results. One that is missing in older checkpoints is zero.
func (c Config) differing(now Config) []setting {
	stop := func(s string) string { return cmp.Or(s, onBadStop) }
	stored := func(o picture.Orientation) picture.Orientation { return cmp.Or(o, picture.AsStored) }
	constant := func(s string) string { return cmp.Or(s, "constant") }
	return []setting{
		{"image-size", c.ImageSize, now.ImageSize},
		{"orientation", stored(c.Orientation), stored(now.Orientation)},
		{"lr", c.LR, now.LR},
		{"warmup-steps", c.WarmupSteps, now.WarmupSteps},
		{"lr-schedule", constant(c.LRSchedule), constant(now.LRSchedule)},
		{"final-lr", c.FinalLR, now.FinalLR},
		{"weight-decay", c.WeightDecay, now.WeightDecay},
		{"ema-decay", c.EMADecay, now.EMADecay},
		{"ema-warmup", c.EMAWarmup, now.EMAWarmup},
		{"max-grad-norm", c.MaxGradNorm, now.MaxGradNorm},
		{"flip-prob", c.FlipProb, now.FlipProb},
		{"precision", c.Precision, now.Precision},
		{"deterministic", c.Deterministic, now.Deterministic},
		{"gradient-accumulation-steps", c.parts(), now.parts()},
		{"on-bad-step", stop(c.OnBadStep), stop(now.OnBadStep)},
		{"spike-factor", c.SpikeFactor, now.SpikeFactor},
		{"time-sampling", cmp.Or(c.TimeSampling, uniformTimes), cmp.Or(now.TimeSampling, uniformTimes)},
		{"time-shift", cmp.Or(c.TimeShift, 1), cmp.Or(now.TimeShift, 1)},
		{"loss-weight", c.lossWeight(), now.lossWeight()},
	}
}

// ChangesSince is [Changes] since a checkpoint, of this program or of the original (see [IsOriginal]), over the
// samples of set.
func ChangesSince(path string, now Config, set samples.Set) ([]string, error) {
	if IsOriginal(path) {
		t, err := openOriginal(path, now, set)
		if err != nil {
			return nil, err
		}
		defer t.Close()
		return originalChanges(t, now, set), nil
	}
	st, err := readState(path)
	if err != nil {
		return nil, err
	}
	return Changes(st.Config, now, set.Samples, st.Step), nil
}
