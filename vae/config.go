package vae

import (
	"fmt"
	"math"
	"math/bits"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// Config describes an autoencoder. Its JSON form is the config.json of a diffusers AutoencoderKL.
// The zero value is not valid: start from [StableDiffusion], [SmallConfig] or [DefaultConfig].
type Config struct {
	ClassName        string   `json:"_class_name"`
	ActFn            string   `json:"act_fn"`             // "silu" is the one that is supported
	BlockOutChannels []int    `json:"block_out_channels"` // width of each level, finest first
	DownBlockTypes   []string `json:"down_block_types"`   // as many as levels, all DownEncoderBlock2D
	UpBlockTypes     []string `json:"up_block_types"`     // as many as levels, all UpDecoderBlock2D
	InChannels       int      `json:"in_channels"`
	OutChannels      int      `json:"out_channels"`
	LatentChannels   int      `json:"latent_channels"`  // C
	LayersPerBlock   int      `json:"layers_per_block"` // of the encoder; the decoder has one more
	NormNumGroups    int      `json:"norm_num_groups"`
	SampleSize       int      `json:"sample_size"` // side of the images it was trained on
	// ScalingFactor takes latents to about unit variance; the user of the latents applies it.
	ScalingFactor float64 `json:"scaling_factor"`

	// Switches of diffusers that this package does not have: read so that others than its own are refused.
	ShiftFactor          *float64  `json:"shift_factor"`
	LatentsMean          []float64 `json:"latents_mean"`
	LatentsStd           []float64 `json:"latents_std"`
	ForceUpcast          bool      `json:"force_upcast"` // no effect: the model computes in the type of its input
	UseQuantConv         bool      `json:"use_quant_conv"`
	UsePostQuantConv     bool      `json:"use_post_quant_conv"`
	MidBlockAddAttention bool      `json:"mid_block_add_attention"`
}

const (
	className     = "AutoencoderKL"
	downBlockType = "DownEncoderBlock2D"
	upBlockType   = "UpDecoderBlock2D"
)

// DefaultConfig holds what a config.json means by leaving a key out. The scaling factor is Stable
// Diffusion's, whose files do not name it.
func DefaultConfig() Config {
	return Config{
		ClassName: className, ActFn: "silu", BlockOutChannels: []int{64},
		DownBlockTypes: []string{downBlockType}, UpBlockTypes: []string{upBlockType},
		InChannels: 3, OutChannels: 3, LatentChannels: 4, LayersPerBlock: 1, NormNumGroups: 32, SampleSize: 32,
		ScalingFactor: 0.18215, ForceUpcast: true, UseQuantConv: true, UsePostQuantConv: true,
		MidBlockAddAttention: true,
	}
}

// StableDiffusion is the autoencoder that Stable Diffusion 1 and DiT share.
func StableDiffusion() Config {
	c := DefaultConfig().withLevels([]int{128, 256, 512, 512})
	c.LayersPerBlock, c.SampleSize = 2, 256
	return c
}

// SmallConfig is an autoencoder that a laptop trains in minutes on images of imageSize pixels. The
// latents have latentChannels channels and a side of imageSize / downsample.
func SmallConfig(imageSize, latentChannels, downsample int) (Config, error) {
	if downsample < 1 || downsample > 64 || bits.OnesCount(uint(downsample)) != 1 {
		return Config{}, fmt.Errorf("downsample %d: want a power of two from 1 to 64", downsample)
	}
	var widths []int
	for i := range bits.Len(uint(downsample)) {
		widths = append(widths, min(16<<i, 64))
	}
	c := DefaultConfig().withLevels(widths)
	c.LatentChannels, c.NormNumGroups, c.SampleSize = latentChannels, 8, imageSize
	if err := c.CheckImageSize(imageSize); err != nil {
		return Config{}, err
	}
	return c, c.validate(asFlag)
}

// WithLevels returns c with other widths, one for each level.
func (c Config) WithLevels(widths ...int) Config { return c.withLevels(widths) }

func (c Config) withLevels(widths []int) Config {
	c.BlockOutChannels, c.DownBlockTypes, c.UpBlockTypes = widths, nil, nil
	for range widths {
		c.DownBlockTypes = append(c.DownBlockTypes, downBlockType)
		c.UpBlockTypes = append(c.UpBlockTypes, upBlockType)
	}
	return c
}

// Downsample is the side of an image over the side of its latent.
func (c Config) Downsample() int { return 1 << (len(c.BlockOutChannels) - 1) }

// CheckImageSize returns an error unless images of such sides can be encoded.
func (c Config) CheckImageSize(sides ...int) error {
	for _, side := range sides {
		if d := c.Downsample(); side < d || side%d != 0 {
			return fmt.Errorf("image-size %d: want a multiple of %d, the downsampling of the autoencoder", side, d)
		}
	}
	return nil
}

// Limits that no real model comes near. They keep a hostile file from making this program allocate
// without end.
const (
	maxLevels = 10
	maxParams = 1 << 29
)

// Validate returns an error that gives the key in config.json, its value and the rule it breaks.
func (c Config) Validate() error { return c.validate(func(key string) string { return key }) }

// asFlag spells a key of config.json as the flag that sets it.
func asFlag(key string) string {
	if key == "sample_size" {
		return "image-size"
	}
	return strings.ReplaceAll(key, "_", "-")
}

// validate is Validate of a configuration that came from elsewhere than a config.json: spell names its keys there.
func (c Config) validate(spell func(key string) string) error {
	const widths = "block_out_channels"
	for _, f := range []struct {
		name        string
		value, most int
	}{
		{"in_channels", c.InChannels, 64}, {"out_channels", c.OutChannels, 64},
		{"latent_channels", c.LatentChannels, 1024}, {"layers_per_block", c.LayersPerBlock, 64},
		{"norm_num_groups", c.NormNumGroups, 1 << 13}, {"sample_size", c.SampleSize, 1 << 16},
	} {
		if f.value < 1 || f.value > f.most {
			return fmt.Errorf("%s %d: want 1 to %d", spell(f.name), f.value, f.most)
		}
	}
	if n := len(c.BlockOutChannels); n < 1 || n > maxLevels {
		return fmt.Errorf("%s: %d levels, want 1 to %d", spell(widths), n, maxLevels)
	}
	for _, width := range c.BlockOutChannels {
		if width < 1 || width > 1<<13 {
			return fmt.Errorf("%s %s: want each from 1 to %d", spell(widths), listed(c.BlockOutChannels), 1<<13)
		}
		if width%c.NormNumGroups != 0 {
			return fmt.Errorf("%s %s: %d is not divisible by %s %d", spell(widths), listed(c.BlockOutChannels), width,
				spell("norm_num_groups"), c.NormNumGroups)
		}
	}
	if err := c.checkKind(); err != nil {
		return err
	}
	if !(c.ScalingFactor > 0) || math.IsInf(c.ScalingFactor, 1) {
		return fmt.Errorf("scaling_factor %v: want a positive number", c.ScalingFactor)
	}
	if n := c.NumParams(); n > maxParams {
		return fmt.Errorf("%s %s and %s %d: %d parameters: want at most %d", spell(widths),
			listed(c.BlockOutChannels), spell("layers_per_block"), c.LayersPerBlock, n, maxParams)
	}
	return nil
}

// checkKind refuses the relatives of AutoencoderKL that diffusers keeps under the same file name.
func (c Config) checkKind() error {
	if c.ClassName != className {
		return fmt.Errorf("_class_name %q: want %q", c.ClassName, className)
	}
	if c.ActFn != "silu" && c.ActFn != "swish" {
		return fmt.Errorf("act_fn %q: want \"silu\"", c.ActFn)
	}
	for _, l := range []struct {
		name  string
		types []string
		want  string
	}{{"down_block_types", c.DownBlockTypes, downBlockType}, {"up_block_types", c.UpBlockTypes, upBlockType}} {
		if len(l.types) != len(c.BlockOutChannels) {
			return fmt.Errorf("%s: %s for %s in block_out_channels", l.name, names.Plural(len(l.types), "block"),
				names.Plural(len(c.BlockOutChannels), "level"))
		}
		for _, t := range l.types {
			if t != l.want {
				return fmt.Errorf("%s %q: want %q", l.name, t, l.want)
			}
		}
	}
	switch {
	case c.ShiftFactor != nil && *c.ShiftFactor != 0, c.LatentsMean != nil, c.LatentsStd != nil:
		return fmt.Errorf("shift_factor, latents_mean or latents_std is set: want latents that only " +
			"scaling_factor scales")
	case !c.UseQuantConv || !c.UsePostQuantConv || !c.MidBlockAddAttention:
		return fmt.Errorf("use_quant_conv %v, use_post_quant_conv %v, mid_block_add_attention %v: want all true",
			c.UseQuantConv, c.UsePostQuantConv, c.MidBlockAddAttention)
	}
	return nil
}

// NumParams returns the number of weights of the model.
func (c Config) NumParams() int { return nn.NumParams(build(torch.Shapes(), c)) }

// listed spells numbers as a flag takes them: "32,64,64".
func listed(numbers []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", ","), "[]")
}
