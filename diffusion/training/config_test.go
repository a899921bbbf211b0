package training

import (
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/dit"
)

func TestLearningRate(t *testing.T) {
	base := Config{LR: 2e-3, WarmupSteps: 100, FinalLR: 0.05}
	for _, c := range []struct {
		schedule    string
		warmup      int
		step, total int
		want        float64
	}{
		{"constant", 0, 0, 1000, 2e-3},
		{"constant", 0, 999, 1000, 2e-3},
		{"constant", 100, 0, 1000, 2e-5},
		{"constant", 100, 49, 1000, 1e-3},
		{"constant", 100, 99, 1000, 2e-3},
		{"constant", 100, 100, 1000, 2e-3},
		{"linear", 100, 0, 1100, 2e-5},
		{"linear", 100, 100, 1100, 2e-3},
		{"linear", 100, 600, 1100, 2e-3 * 0.525},
		{"linear", 100, 1100, 1100, 1e-4},
		{"cosine", 100, 100, 1100, 2e-3},
		{"cosine", 100, 350, 1100, 2e-3 * (0.05 + 0.95*(1+math.Sqrt2/2)/2)},
		{"cosine", 100, 600, 1100, 2e-3 * 0.525},
		{"cosine", 100, 1100, 1100, 1e-4},
		{"linear", 100, 50, 60, 2e-3 * 0.51}, // a run that ends while it warms up
		{"linear", 0, 0, 1, 2e-3},
	} {
		cfg := base
		cfg.LRSchedule, cfg.WarmupSteps = c.schedule, c.warmup
		if got := cfg.learningRate(c.step, c.total); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%s, warm-up %d, step %d of %d: %.9g, want %.9g", c.schedule, c.warmup, c.step, c.total, got,
				c.want)
		}
	}
}

func TestSteps(t *testing.T) {
	for _, c := range []struct{ epochs, max, batch, n, want int }{
		{1400, 0, 256, 1281167, 7005600},
		{2, 0, 10, 25, 4},
		{2, 3, 10, 25, 3},
		{2, 9, 10, 25, 4},
		{0, 9, 10, 25, 9},
	} {
		cfg := Config{Epochs: c.epochs, MaxSteps: c.max, GlobalBatchSize: c.batch}
		if got := cfg.Steps(c.n); got != c.want {
			t.Errorf("%+v: %d steps", c, got)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	good := DefaultConfig
	good.Model = dit.XL2
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Model.Depth = 0 }, "depth 0"},
		{func(c *Config) { c.GlobalBatchSize = 0 }, "global batch size 0"},
		{func(c *Config) { c.Epochs = 0 }, "epochs 0 and max steps 0"},
		{func(c *Config) { c.LR = 0 }, "learning rate 0"},
		{func(c *Config) { c.LR = math.NaN() }, "learning rate NaN"},
		{func(c *Config) { c.LR = math.Inf(1) }, "learning rate +Inf"},
		{func(c *Config) { c.LRSchedule = "" }, `learning rate schedule ""`},
		{func(c *Config) { c.WarmupSteps = -1 }, "warm-up of -1 steps"},
		{func(c *Config) { c.FinalLR = 1.5 }, "final learning rate 1.5"},
		{func(c *Config) { c.FinalLR = math.NaN() }, "final learning rate NaN"},
		{func(c *Config) { c.EMADecay = 1 }, "ema decay 1"},
		{func(c *Config) { c.EMADecay = -1 }, "ema decay -1"},
		{func(c *Config) { c.WeightDecay = -1 }, "weight decay -1"},
		{func(c *Config) { c.MaxGradNorm = math.NaN() }, "gradient norm NaN"},
		{func(c *Config) { c.FlipProb = 2 }, "flip probability 2"},
		{func(c *Config) { c.Precision = "fp64" }, `precision "fp64"`},
		{func(c *Config) { c.LogEvery = 0 }, "log every 0"},
		{func(c *Config) { c.CkptEvery = 0 }, "checkpoint every 0"},
		{func(c *Config) { c.SampleEvery = -1 }, "sample every -1"},
	} {
		cfg := good
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}
