package dit

import (
	"math"
	"strings"
	"testing"
)

func TestNamedReadsWhatNameWrites(t *testing.T) {
	if n := Names(); len(n) != 12 || n[0] != "DiT-S/8" || n[11] != "DiT-XL/2" {
		t.Errorf("Names() = %v", n)
	}
	for _, name := range append(Names(), "DiT-192x6x6/2", "DiT-24x1x2/1", "DiT-384x12x6/1", "DiT-96x4x3/3") {
		c, err := Named(name)
		if err != nil {
			t.Errorf("Named(%q): %v", name, err)
		} else if c.Name() != name {
			t.Errorf("Named(%q).Name() = %q", name, c.Name())
		}
	}
	if c, _ := Named("DiT-XL/2"); c != XL2 {
		t.Errorf("DiT-XL/2 is %+v, want XL2", c)
	}
	if c, _ := Named("DiT-384x12x6/4"); c.Name() != "DiT-S/4" {
		t.Errorf("DiT-384x12x6/4 is called %s, want the paper's DiT-S/4", c.Name())
	}
}

func TestNamedRefuses(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"", "want DiT-S, B, L or XL with /2, /4 or /8"},
		{"XL/2", "want DiT-S, B, L or XL"},
		{"DiT-XL", "want DiT-S, B, L or XL"},
		{"DiT-XL/3", "want DiT-S, B, L or XL"},
		{"DiT-XL/2x", "want DiT-S, B, L or XL"},
		{"DiT-XXL/2", "want DiT-S, B, L or XL"},
		{"dit-XL/2", "want DiT-S, B, L or XL"},
		{"DiT-192x6/2", "want DiT-S, B, L or XL"},
		{"DiT-192x6x6x6/2", "want DiT-S, B, L or XL"},
		{"DiT-192x6x7/2", "hidden size 192 is not divisible by 7 heads"},
		{"DiT-6x1x1/2", "hidden size 6 is not divisible by 4"},
		{"DiT-192x0x6/2", "depth 0"},
		{"DiT-192x6x-6/2", "number of heads -6"},
		{"DiT-192x6x6/0", "patch size 0"},
		{"DiT-99999999x6x6/2", "hidden size 99999999"},
	} {
		got, err := Named(c.name)
		if err == nil || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), "model \""+c.name+"\"") {
			t.Errorf("Named(%q): error %v, want one with %q that names the model", c.name, err, c.want)
		}
		if got != (Config{}) {
			t.Errorf("Named(%q): a configuration beside the error", c.name)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := XL2.Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { *c = Config{} }, "input size 0: want a number from 1 to 1048576"},
		{func(c *Config) { c.InputSize = -1 }, "input size -1"},
		{func(c *Config) { c.PatchSize = 0 }, "patch size 0"},
		{func(c *Config) { c.InChannels = 1 << 30 }, "input channels 1073741824"},
		{func(c *Config) { c.NumClasses = 0 }, "number of classes 0"},
		{func(c *Config) { c.HiddenSize = 1150 }, "hidden size 1150 is not divisible by 16 heads"},
		{func(c *Config) { c.HiddenSize, c.NumHeads = 18, 3 }, "hidden size 18 is not divisible by 4"},
		{func(c *Config) { c.PatchSize = 5 }, "latent size 32 is not divisible by patch size 5"},
		{func(c *Config) { c.ClassDropoutProb = 1 }, "class dropout probability 1"},
		{func(c *Config) { c.ClassDropoutProb = -0.1 }, "class dropout probability -0.1"},
		{func(c *Config) { c.ClassDropoutProb = math.NaN() }, "class dropout probability NaN"},
		{func(c *Config) { c.MLPRatio = 0 }, "MLP ratio 0"},
		{func(c *Config) { c.Block = "moe" }, "block \"moe\": not a kind of block"},
		{func(c *Config) { c.Condition = "sound" }, "condition \"sound\": not a kind of condition"},
		{func(c *Config) { c.TextWidth, c.TextLength = 768, 77 },
			"text of 77 tokens of width 768: a model of condition class has none"},
		{func(c *Config) { c.Condition = OnText }, "number of classes 1000: a model of condition text has none"},
		{func(c *Config) { c.Condition, c.TextLength = OnTextAndClass, 77 }, "text width 0"},
		{func(c *Config) { c.Condition, c.TextWidth = OnTextAndClass, 768 }, "text length 0"},
		{func(c *Config) { c.Condition = OnNothing }, "number of classes 1000: a model of condition none has none"},
		{func(c *Config) { c.Condition, c.NumClasses = OnNothing, 0 },
			"class dropout probability 0.1: a model of condition none has nothing to drop"},
		{func(c *Config) { c.MLPRatio = math.NaN() }, "MLP ratio NaN"},
		{func(c *Config) { c.MLPRatio = math.Inf(1) }, "MLP ratio +Inf"},
		{func(c *Config) { c.MLPRatio = 1e-6 }, "MLP ratio 1e-06"},
	} {
		cfg := XL2
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

// The multiply-accumulates in table 4 of the paper, which calls them Gflops.
func TestMACsEqualPaper(t *testing.T) {
	for name, want := range map[string]float64{
		"DiT-S/8": 0.36, "DiT-S/4": 1.41, "DiT-S/2": 6.06, "DiT-B/8": 1.42, "DiT-B/4": 5.56, "DiT-B/2": 23.01,
		"DiT-L/8": 5.01, "DiT-L/4": 19.70, "DiT-L/2": 80.71, "DiT-XL/8": 7.39, "DiT-XL/4": 29.05, "DiT-XL/2": 118.64,
	} {
		c, err := Named(name)
		if err != nil {
			t.Fatal(err)
		}
		// The paper rounds to two digits after the point.
		if got := c.MACs() / 1e9; math.Abs(got-want) > 0.001*want+0.005 {
			t.Errorf("%s: %.3f G, want %.2f", name, got, want)
		}
	}
	c := XL2
	c.InputSize = 64
	if got := c.MACs() / 1e9; math.Abs(got-524.60) > 0.5 {
		t.Errorf("DiT-XL/2 at 512 pixels: %.3f G, want 524.60", got)
	}
}

// What files and flags say of blocks and conditions is read back, and nothing else is.
func TestKindsOfBlocksAndConditions(t *testing.T) {
	for _, k := range BlockKinds() {
		if got, err := ParseBlock(k.String()); err != nil || got != k {
			t.Errorf("ParseBlock(%q) = %q, %v", k, got, err)
		}
	}
	for _, k := range ConditionKinds() {
		if got, err := ParseCondition(k.String()); err != nil || got != k {
			t.Errorf("ParseCondition(%q) = %q, %v", k, got, err)
		}
	}
	if _, err := ParseBlock("adaln-one"); err == nil ||
		!strings.Contains(err.Error(), `block "adaln-one": want in-context, cross-attention, adaln, adaln-zero`) {
		t.Errorf("ParseBlock(adaln-one): %v", err)
	}
	if _, err := ParseCondition("audio"); err == nil ||
		!strings.Contains(err.Error(), `condition "audio": want class, text, text+class, none`) {
		t.Errorf("ParseCondition(audio): %v", err)
	}
}
