package training

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/training/samples"
)

func TestChanges(t *testing.T) {
	base := small(10)
	base.LR, base.LRSchedule, base.FinalLR = 1e-4, "constant", 0
	for _, c := range []struct {
		what   string
		before func(*Config)
		now    func(*Config)
		want   []string
	}{
		{"nothing", func(*Config) {}, func(*Config) {}, nil},
		{"the rate", func(*Config) {}, func(c *Config) { c.LR = 3e-4 }, []string{"lr 0.0001 before, 0.0003 now"}},
		{"several", func(*Config) {}, func(c *Config) { c.EMADecay, c.FlipProb, c.LRSchedule = 0.5, 0.25, "linear" },
			[]string{"lr-schedule constant before, linear now", "ema-decay 0.9 before, 0.5 now",
				"flip-prob 0.5 before, 0.25 now"}},
		{"turned pictures", func(*Config) {}, func(c *Config) { c.Orientation = picture.ByEXIF },
			[]string{"orientation as-stored before, exif now"}},
		{"pictures as stored", func(*Config) {}, func(c *Config) { c.Orientation = picture.AsStored }, nil},
		{"a longer run", func(*Config) {}, func(c *Config) { c.MaxSteps = 20 }, nil},
		// (1 + cos(pi*8/10)) / 2 = 0.09549 of the rate, (1 + cos(pi*9/20)) / 2 = 0.5782 of it.
		{"a longer run that falls", func(c *Config) { c.LRSchedule = "cosine" },
			func(c *Config) { c.LRSchedule, c.MaxSteps = "cosine", 20 },
			[]string{"the learning rate falls over 20 steps instead of 10: it goes from 9.55e-06 at step 9 to " +
				"5.78e-05 at step 10 (times 6.06)"}},
		// A rate that rises to step 15 is (step + 1)/15 of what it is to be, however long the run is.
		{"a longer run that still rises",
			func(c *Config) { c.LRSchedule, c.WarmupSteps, c.MaxSteps = "linear", 15, 30 },
			func(c *Config) { c.LRSchedule, c.WarmupSteps, c.MaxSteps = "linear", 15, 60 },
			[]string{"the learning rate rises to step 15, then falls over 60 steps instead of 30: it goes from " +
				"6e-05 at step 9 to 6.67e-05 at step 10 (times 1.11)"}},
		{"a run that became as short as its warm-up",
			func(c *Config) { c.LRSchedule, c.WarmupSteps, c.MaxSteps = "linear", 15, 30 },
			func(c *Config) { c.LRSchedule, c.WarmupSteps, c.MaxSteps = "linear", 15, 12 },
			[]string{"the learning rate rises over 12 steps instead of 30: it goes from 6e-05 at step 9 to " +
				"6.67e-05 at step 10 (times 1.11)"}},
		{"a checkpoint of an older version",
			func(c *Config) { c.LRSchedule, c.OnBadStep, c.Accumulation, c.DataOrder = "", "", 0, "" },
			func(c *Config) { c.OnBadStep, c.Accumulation = "stop", 1 }, nil},
		{"a checkpoint from before there were objectives", func(c *Config) {
			c.Objective, c.TimeSampling, c.TimeShift, c.LossWeight = "", "", 0, ""
		}, func(*Config) {}, nil},
		{"other times and another weight", func(*Config) {}, func(c *Config) {
			c.TimeSampling, c.TimeShift, c.LossWeight = "logit-normal:-0.4,1", 0.3, "min-snr"
		}, []string{"time-sampling uniform before, logit-normal:-0.4,1 now", "time-shift 1 before, 0.3 now",
			"loss-weight none before, min-snr now"}},
		{"how often it is looked at", func(*Config) {}, func(c *Config) {
			c.LogEvery, c.CkptEvery, c.SampleEvery, c.KeepLast, c.KeepEvery, c.Recompute = 7, 7, 7, 7, 7, true
		}, nil},
	} {
		before, now := base, base
		c.before(&before)
		c.now(&now)
		if got := Changes(before, now, 80, 9); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// Each field of a configuration is said when it differs, must not differ, or does not change results: a new one has
// to be put into one of the lists.
func TestChangesKnowsEveryField(t *testing.T) {
	said := map[string]bool{}
	for _, d := range DefaultConfig.differing(DefaultConfig) {
		said[d.name] = true
	}
	refused := []string{"model", "global_batch_size", "global_seed", "data_order", "objective", "path"}
	harmless := []string{"epochs", "max_steps", "recompute_activations", "log_every", "ckpt_every", "sample_every",
		"keep_last", "keep_every", "-"}
	fields := reflect.TypeFor[Config]()
	for i := range fields.NumField() {
		name := fields.Field(i).Tag.Get("json")
		if !said[strings.ReplaceAll(name, "_", "-")] && !slices.Contains(refused, name) &&
			!slices.Contains(harmless, name) {
			t.Errorf("%s is not looked at when a run goes on", name)
		}
	}
}

// TestOtherPicturesLeftOut: that other bad pictures are left out is another data set, and is worded.
func TestOtherPicturesLeftOut(t *testing.T) {
	cfg := small(10)
	for _, c := range []struct {
		before, now int
		want        string
	}{
		{0, 0, "it was trained on another data set"},
		{5, 0, "it was trained on another data set, or other bad pictures were left out (5 then, 0 now)"},
		{5, 6, "it was trained on another data set, or other bad pictures were left out (5 then, 6 now)"},
	} {
		st := state{Config: cfg, Dataset: "a", LeftOut: c.before}
		err := st.fits(cfg, samples.Set{Hash: "b", LeftOut: c.now, Samples: 80}, "run")
		if err == nil || err.Error() != "resume from run: "+c.want {
			t.Errorf("%d left out, then %d: %v, want %s", c.before, c.now, err, c.want)
		}
	}
}
