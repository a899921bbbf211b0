package training

import (
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/training/samples"
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
		{func(c *Config) { c.Model.Depth = 0 }, "model DiT-1152x0x16/2: depth 0: want "},
		{func(c *Config) { c.Model.InputSize = 31 }, "model DiT-XL/2: latent size 31 is not divisible by patch size 2"},
		{func(c *Config) { c.Model.ClassDropoutProb = 1 }, "class-dropout-prob 1: want "},
		{func(c *Config) { c.Model.ClassDropoutProb = math.NaN() }, "class-dropout-prob NaN: want "},
		{func(c *Config) { c.Model.NumClasses = 0 }, "num-classes 0: want at least 1"},
		{func(c *Config) { c.GlobalBatchSize = 0 }, "global-batch-size 0: want at least 1"},
		{func(c *Config) { c.Epochs = 0 }, "epochs 0 and max-steps 0: want "},
		{func(c *Config) { c.Epochs, c.MaxSteps = -1, 5 }, "epochs -1: want at least 0"},
		{func(c *Config) { c.MaxSteps = -1 }, "max-steps -1: want at least 0"},
		{func(c *Config) { c.LR = 0 }, "lr 0: want a positive number"},
		{func(c *Config) { c.LR = -1 }, "lr -1: want a positive number"},
		{func(c *Config) { c.LR = math.NaN() }, "lr NaN: want "},
		{func(c *Config) { c.LR = math.Inf(1) }, "lr +Inf: want "},
		{func(c *Config) { c.LRSchedule = "" }, `lr-schedule "": want constant, linear or cosine`},
		{func(c *Config) { c.WarmupSteps = -1 }, "warmup-steps -1: want at least 0"},
		{func(c *Config) { c.FinalLR = 1.5 }, "final-lr 1.5: want "},
		{func(c *Config) { c.FinalLR = math.NaN() }, "final-lr NaN: want "},
		{func(c *Config) { c.EMADecay = 1 }, "ema-decay 1: want at least 0 and less than 1"},
		{func(c *Config) { c.EMADecay = -1 }, "ema-decay -1: want "},
		{func(c *Config) { c.WeightDecay = -1 }, "weight-decay -1: want at least 0"},
		{func(c *Config) { c.MaxGradNorm = math.NaN() }, "max-grad-norm NaN: want at least 0"},
		{func(c *Config) { c.FlipProb = 2 }, "flip-prob 2: want 0 to 1"},
		{func(c *Config) { c.DataOrder = "none" }, `data-order "none": want shuffle or block`},
		{func(c *Config) { c.Precision = "int4" }, `precision "int4": want fp32, tf32 or bf16`},
		{func(c *Config) { c.Orientation = "up" }, `orientation "up": want exif or as-stored`},
		{func(c *Config) { c.Accumulation = -1 }, "gradient-accumulation-steps -1: want at least 1"},
		{func(c *Config) { c.Accumulation = 3 },
			"gradient-accumulation-steps 3: want a number that divides global-batch-size 256"},
		{func(c *Config) { c.OnBadStep = "cry" }, `on-bad-step "cry": want stop, skip or rollback`},
		{func(c *Config) { c.SpikeFactor = 0.5 }, "spike-factor 0.5: want "},
		{func(c *Config) { c.SpikeFactor = math.Inf(1) }, "spike-factor +Inf: want "},
		{func(c *Config) { c.LogEvery = 0 }, "log-every 0: want at least 1"},
		{func(c *Config) { c.CkptEvery = 0 }, "ckpt-every 0: want at least 1"},
		{func(c *Config) { c.SampleEvery = -1 }, "sample-every -1: want at least 0"},
		{func(c *Config) { c.KeepLast = -1 }, "keep-last -1: want at least 0"},
		{func(c *Config) { c.KeepEvery = -1 }, "keep-every -1: want at least 0"},
	} {
		cfg := good
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	recipe := DefaultConfig // before the latents are open
	if err := recipe.ValidateRecipe(); err != nil {
		t.Error(err)
	}
}

func TestConfigForASet(t *testing.T) {
	set := samples.Set{Samples: 300, Classes: []string{"a", "b"}, Channels: 4, Height: 8, Width: 12,
		ImageSize: picture.Size{Height: 64, Width: 96}, ScalingFactor: 0.5}
	c, err := ConfigFor("DiT-S/2", set)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.check(set, 1); err != nil {
		t.Errorf("a set without mirrored views: %v", err)
	}
	if m := c.Model; m.Name() != "DiT-S/2" || m.Size() != "8x12" || m.NumClasses != 2 || c.ImageSize != set.ImageSize {
		t.Errorf("model %s of %s, %d classes, pictures of %s", m.Name(), m.Size(), m.NumClasses, c.ImageSize)
	}
	set.Flip = true
	if c, err = ConfigFor("DiT-S/2", set); err != nil || c.FlipProb != DefaultConfig.FlipProb {
		t.Errorf("with mirrored views: %v, %v", c.FlipProb, err)
	}
	if _, err := ConfigFor("DiT-S", set); err == nil {
		t.Error("DiT-S: no error")
	}
}
