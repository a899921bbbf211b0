// Package dit is the Diffusion Transformer of Peebles and Xie, "Scalable Diffusion Models with
// Transformers" (arXiv:2212.09748), with any of its four kinds of blocks, conditioned on classes, on text, on both
// or on nothing. Names of parameters equal those of the published checkpoints.
//
//	config, err := dit.Named("DiT-B/2")
//	config.SetInput(32, 32)
//	m, err := dit.New(s, config) // in a scope s of package torch; m.Init draws its weights
//	m, info, err := dit.Open(s, "results/000-DiT-XL-2")
//	noise := m.Forward(s, x, t, dit.Condition{Labels: y})
//
// The [example] makes, saves and opens one. Package sampling draws pictures, package training trains.
//
// Shape letters: N batch, C latent channels, I x J height and width of the latent, P patch size,
// T = (I/P) (J/P) tokens, D hidden size, H heads, K classes, L text tokens of W numbers.
//
// The model and its weight files are one package, large as it is: both go by one list of parameters and one table of
// blocks, which a package of files could only have if a dozen private names were public. The model is in config.go,
// model.go, embed.go, layers.go and a file a block; its files in [Read] and what that calls: names.go, weights.go,
// infer.go, diffusers.go, original.go, adapt.go.
//
// [example]: https://pkg.go.dev/github.com/ditrun/ditrun/dit#example-package
package dit

import (
	"fmt"
	"strings"
)

// Config describes a model. The zero value is not valid: start from [Named] or [XL2].
type Config struct {
	InputSize        int     `json:"input_size" yaml:"input_size"`                       // I: 32 for 256-pixel images
	InputWidth       int     `json:"input_width,omitempty" yaml:"input_width,omitempty"` // J, where it is not I
	PatchSize        int     `json:"patch_size" yaml:"patch_size"`                       // P
	InChannels       int     `json:"in_channels" yaml:"in_channels"`
	HiddenSize       int     `json:"hidden_size" yaml:"hidden_size"` // D, divisible by NumHeads and by 4
	Depth            int     `json:"depth" yaml:"depth"`             // blocks
	NumHeads         int     `json:"num_heads" yaml:"num_heads"`
	MLPRatio         float64 `json:"mlp_ratio" yaml:"mlp_ratio"`
	ClassDropoutProb float64 `json:"class_dropout_prob" yaml:"class_dropout_prob"` // > 0 adds the null class
	NumClasses       int     `json:"num_classes" yaml:"num_classes"`               // K
	LearnSigma       bool    `json:"learn_sigma" yaml:"learn_sigma"`               // twice the output channels

	Block     BlockKind     `json:"block,omitempty" yaml:"block,omitempty"`
	Condition ConditionKind `json:"condition,omitempty" yaml:"condition,omitempty"`
	// TextWidth is W and TextLength the largest L of a model conditioned on text. Such a model has no
	// classes (NumClasses is 0) unless it is conditioned on both; ClassDropoutProb is then that of
	// captions too. A model conditioned on nothing has neither, and drops nothing.
	TextWidth  int `json:"text_width,omitempty" yaml:"text_width,omitempty"`
	TextLength int `json:"text_length,omitempty" yaml:"text_length,omitempty"`

	// TimestepFrequencyShift is 0 for the arithmetic of the original, and 1 for that of diffusers'
	// DiTTransformer2DModel, whose timestep code has slightly other frequencies.
	TimestepFrequencyShift int `json:"timestep_frequency_shift,omitempty" yaml:"timestep_frequency_shift,omitempty"`
	// MLPNormEps is the epsilon of the norm before the MLP where it is not that of the other norms.
	MLPNormEps float64 `json:"mlp_norm_eps,omitempty" yaml:"mlp_norm_eps,omitempty"`
}

// WithDiffusersArithmetic returns c for a model that was trained with diffusers, whose timestep
// frequencies and norm before the MLP (epsilon eps, 1e-5 by default there) differ from the original's.
func (c Config) WithDiffusersArithmetic(eps float64) Config {
	c.TimestepFrequencyShift = 1
	if c.MLPNormEps = eps; eps == normEps {
		c.MLPNormEps = 0
	}
	return c
}

// XL2 is DiT-XL/2 for 256-pixel ImageNet, the paper's largest model.
var XL2 = Config{InputSize: 32, PatchSize: 2, InChannels: 4, HiddenSize: 1152, Depth: 28, NumHeads: 16,
	MLPRatio: 4, ClassDropoutProb: 0.1, NumClasses: 1000, LearnSigma: true}

// sizes are the paper's, table 1.
var sizes = []struct {
	name                 string
	depth, hidden, heads int
}{{"S", 12, 384, 6}, {"B", 12, 768, 12}, {"L", 24, 1024, 16}, {"XL", 28, 1152, 16}}

// Names lists the twelve models of the paper, DiT-S/8 to DiT-XL/2.
func Names() []string {
	var out []string
	for _, s := range sizes {
		for _, p := range []int{8, 4, 2} {
			out = append(out, fmt.Sprintf("DiT-%s/%d", s.name, p))
		}
	}
	return out
}

// Named returns the configuration of one of the paper's models, such as "DiT-XL/2", or of a custom
// one written as "DiT-WIDTHxDEPTHxHEADS/PATCH", such as "DiT-192x6x6/2". The other fields are
// [XL2]'s.
func Named(name string) (Config, error) {
	c := XL2
	size, patch, ok := strings.Cut(strings.TrimPrefix(name, "DiT-"), "/")
	if ok && strings.HasPrefix(name, "DiT-") && scan(patch, "%d", &c.PatchSize) {
		for _, s := range sizes {
			if s.name == size && published(c.PatchSize) {
				c.Depth, c.HiddenSize, c.NumHeads = s.depth, s.hidden, s.heads
				return c, nil
			}
		}
		if scan(size, "%dx%dx%d", &c.HiddenSize, &c.Depth, &c.NumHeads) {
			fitting := c // the latent size is the caller's to set
			fitting.SetInput(max(c.PatchSize, 1), max(c.PatchSize, 1))
			if err := fitting.Validate(); err != nil {
				return Config{}, fmt.Errorf("model %q: %w", name, err)
			}
			return c, nil
		}
	}
	return Config{}, fmt.Errorf("model %q: want DiT-S, B, L or XL with /2, /4 or /8, or DiT-WIDTHxDEPTHxHEADS/PATCH",
		name)
}

// published reports whether the paper has models of patch size p.
func published(p int) bool { return p == 2 || p == 4 || p == 8 }

// scan is fmt.Sscanf that wants all of text used.
func scan(text, format string, args ...any) bool {
	var end string
	n, _ := fmt.Sscanf(text+" end", format+" %s", append(args, &end)...)
	return n == len(args)+1 && end == "end"
}

// Name returns what [Named] reads for the sizes of c.
func (c Config) Name() string {
	for _, s := range sizes {
		if s.depth == c.Depth && s.hidden == c.HiddenSize && s.heads == c.NumHeads && published(c.PatchSize) {
			return fmt.Sprintf("DiT-%s/%d", s.name, c.PatchSize)
		}
	}
	return fmt.Sprintf("DiT-%dx%dx%d/%d", c.HiddenSize, c.Depth, c.NumHeads, c.PatchSize)
}

// Design is Name and, where they are not the published models', the blocks: "DiT-S/2 with in-context blocks".
func (c Config) Design() string {
	if c.Block == AdaLNZero {
		return c.Name()
	}
	return fmt.Sprintf("%s with %s blocks", c.Name(), c.Block)
}

// Validate returns an error that gives the value and the rule it breaks.
func (c Config) Validate() error {
	if err := c.validateSizes(); err != nil {
		return err
	}
	_, err := c.design()
	return err
}

func (c Config) validateSizes() error {
	for _, f := range []struct {
		name  string
		value int
	}{{"input size", c.InputSize}, {"input width", c.Width()}, {"patch size", c.PatchSize},
		{"input channels", c.InChannels}, {"hidden size", c.HiddenSize},
		{"depth", c.Depth}, {"number of heads", c.NumHeads}} {
		if f.value < 1 || f.value > 1<<20 {
			return fmt.Errorf("%s %d: want a number from 1 to %d", f.name, f.value, 1<<20)
		}
	}
	switch {
	case c.HiddenSize%c.NumHeads != 0:
		return fmt.Errorf("hidden size %d is not divisible by %d heads", c.HiddenSize, c.NumHeads)
	case c.HiddenSize%4 != 0:
		return fmt.Errorf("hidden size %d is not divisible by 4, which the sin-cos positions need", c.HiddenSize)
	case c.InputSize%c.PatchSize != 0 || c.Width()%c.PatchSize != 0:
		return fmt.Errorf("latent size %s is not divisible by patch size %d", c.Size(), c.PatchSize)
	case !(c.ClassDropoutProb >= 0 && c.ClassDropoutProb < 1):
		return fmt.Errorf("class dropout probability %v: want 0 <= p < 1", c.ClassDropoutProb)
	case c.TimestepFrequencyShift != 0 && c.TimestepFrequencyShift != 1:
		return fmt.Errorf("timestep frequency shift %d: want 0 (the original) or 1 (diffusers)",
			c.TimestepFrequencyShift)
	case !(c.MLPNormEps >= 0 && c.MLPNormEps < 1):
		return fmt.Errorf("epsilon of the norm before the MLP %v: want 0 <= eps < 1", c.MLPNormEps)
	case c.MLPRatio <= 0 || c.MLPRatio > 64 || c.mlpHidden() < 1:
		return fmt.Errorf("MLP ratio %v: want a positive number up to 64", c.MLPRatio)
	}
	return c.validateCondition()
}

// OutChannels is C, doubled for the variance where LearnSigma is set.
func (c Config) OutChannels() int {
	if c.LearnSigma {
		return 2 * c.InChannels
	}
	return c.InChannels
}

// Width is J.
func (c Config) Width() int {
	if c.InputWidth != 0 {
		return c.InputWidth
	}
	return c.InputSize
}

// SetInput sets the height and width of the latents.
func (c *Config) SetInput(height, width int) {
	if c.InputSize, c.InputWidth = height, width; height == width {
		c.InputWidth = 0 // so that configurations of one model are equal
	}
}

// Size writes the size of the latents: 32, or 32x48 for height and width.
func (c Config) Size() string {
	if c.Width() == c.InputSize {
		return fmt.Sprint(c.InputSize)
	}
	return fmt.Sprintf("%dx%d", c.InputSize, c.Width())
}

// grid is the number of rows and columns of patches.
func (c Config) grid() (rows, cols int) { return c.InputSize / c.PatchSize, c.Width() / c.PatchSize }

// NumTokens is T.
func (c Config) NumTokens() int { rows, cols := c.grid(); return rows * cols }

// tableRows is the length of the label table: the null class has a row if labels are dropped.
func (c Config) tableRows() int {
	if c.ClassDropoutProb > 0 {
		return c.NumClasses + 1
	}
	return c.NumClasses
}

func (c Config) mlpHidden() int { return int(float64(c.HiddenSize) * c.MLPRatio) }

// NullClass is the label that stands for no class in classifier-free guidance. The model has it only
// if ClassDropoutProb is positive.
func (c Config) NullClass() int { return c.NumClasses }
