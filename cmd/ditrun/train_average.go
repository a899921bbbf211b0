package main

import (
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/training"
)

const emaDecayFlag = "ema-decay"

// chooseAverage decides the decay of the average where no flag does: the one that the run began with, so that a longer
// run goes on as it was; for a new run one that fits its length. With warm-up the average does so by
// itself, and a file of the original keeps the original's.
func (t *trainJob) chooseAverage(point resumePoint) {
	before, known := point.decay()
	given := t.options.given(emaDecayFlag)
	switch {
	case known:
		if !given {
			t.config.EMADecay = before
		}
		if t.config.EMADecay == before && decayFollows(point.dir) {
			t.derived = []string{emaDecayFlag}
		}
	case !given && point.original == "" && !t.config.EMAWarmup:
		t.config.EMADecay = training.EMADecay(t.config.Steps(t.set.Samples))
		t.derived = []string{emaDecayFlag}
	}
}

// hash identifies the configuration, without what may change when the run is continued.
func (t *trainJob) hash() (string, error) { return configHash(t.flags, notOfTheRun...) }

// isConfigOf says whether the config.yaml of the run in dir has the flags of this one. Where no flag says which average
// there is to be, this one takes up runs of every average that nobody chose: of the paper's decay, or one that follows
// from the length that the run had.
func (t *trainJob) isConfigOf(dir string, config []byte) bool {
	defer func(decay float64) { t.config.EMADecay = decay }(t.config.EMADecay)
	if decay, known := decayIn(config); known && !t.options.given(emaDecayFlag) && decayFollows(dir) {
		t.config.EMADecay = decay
	}
	return isConfigOf(t.flags, config, notOfTheRun...)
}

// decay is that of the run that goes on, false where none does or its decay is not known.
func (p *resumePoint) decay() (float64, bool) {
	if !p.continues {
		return 0, false
	}
	if config, err := training.ConfigOf(p.checkpoint); err == nil {
		return config.EMADecay, true
	}
	config, err := os.ReadFile(filepath.Join(p.dir, runs.ConfigName))
	if err != nil {
		return 0, false
	}
	return decayIn(config)
}

// decayIn reads the decay from the text of a config.yaml.
func decayIn(config []byte) (float64, bool) {
	values := struct {
		EMADecay *float64 `yaml:"ema-decay"`
	}{}
	if yaml.Unmarshal(config, &values) != nil || values.EMADecay == nil {
		return 0, false
	}
	return *values.EMADecay, true
}

// decayFollows says whether the decay of the run in dir followed from its length. Where its record is damaged it may
// have.
func decayFollows(dir string) bool {
	info, err := runs.ReadInfo(dir)
	return err != nil || slices.Contains(info.Derived, emaDecayFlag)
}

// describeAverage says where the decay comes from that nobody chose, and warns of one that keeps the average near the
// weights that the run began with.
func (t *trainJob) describeAverage(steps int) {
	cfg, n, paper := t.config, plural(steps, "step"), training.DefaultConfig.EMADecay
	fits := training.EMADecay(steps)
	if decay := cfg.EMADecay; len(t.derived) > 0 && decay != paper {
		if decay == fits {
			t.printf("ema     decay %g, as the run has %s; the paper's is %g", decay, n, paper)
		} else {
			t.printf("ema     decay %g, as at the start of the run; %g would fit %s", decay, fits, n)
		}
	}
	// A handful of steps is a try, of which nobody expects pictures.
	const noticeable, large, handful = 0.05, 0.3, 10
	share := cfg.InitialShare(steps)
	if share < noticeable || share < large && steps < handful {
		return
	}
	first, then := "first, random weights", "samples will be noise"
	if t.options.initFrom != "" {
		first, then = "weights of --init-from", "samples will show little of the training"
	}
	if share < large {
		then = "samples will be worse than they could be"
	}
	t.warn("ema decay %g: after %s, %.0f %% of the average are still the %s: %s; --ema-decay %g fits this run, or "+
		"--ema-warmup", cfg.EMADecay, n, 100*share, first, then, fits)
}
