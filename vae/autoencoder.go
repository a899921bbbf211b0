// Package vae is the autoencoder that takes images to the latents a diffusion model works on: the
// AutoencoderKL of latent diffusion (Rombach et al., arXiv:2112.10752), in the layout and under the
// parameter names of diffusers.
//
//	m, err := vae.Open("sd-vae-ft-ema", torch.CPU)
//	defer m.Close()
//	err = torch.Run(m.Device(), func(s *torch.Scope) error {
//		mean, logvar := m.Encode(s, vae.Pixels(s, rgb, n, height, width))
//		z := vae.Sample(s, mean, logvar, noise)
//		x := m.Decode(s, z)
//		...
//	})
//
// Latents here are unscaled. A diffusion model works on them times Config().ScalingFactor: divide its samples by
// that before Decode.
//
// Shape letters: N batch, C latent channels, D width of a level, H and W image height and width,
// h and w latent height and width, S side of a square image.
package vae

import (
	"errors"
	"math"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// AutoencoderKL is the model. Its fields are in the order of the published state dict.
type AutoencoderKL struct {
	Encoder       Encoder   `dit:"encoder"`
	Decoder       Decoder   `dit:"decoder"`
	QuantConv     nn.Conv2d `dit:"quant_conv"`
	PostQuantConv nn.Conv2d `dit:"post_quant_conv"`

	cfg    Config
	sha256 string // hex, of the file the weights are in
	notes  []string

	channelsLast bool // memory order of activations
}

// New makes a model of zeros on the scope's device: call [AutoencoderKL.Init] or load weights next.
// Its parameters are persistent until [AutoencoderKL.Close].
func New(s *torch.Scope, cfg Config) (*AutoencoderKL, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return build(s, cfg), nil
}

// build makes a model of a configuration whose sizes are within bounds.
func build(s *torch.Scope, cfg Config) *AutoencoderKL {
	c := cfg.LatentChannels
	return &AutoencoderKL{
		Encoder: newEncoder(s, cfg), Decoder: newDecoder(s, cfg),
		QuantConv: nn.NewConv2d(s, 2*c, 2*c, 1, 1, 0), PostQuantConv: nn.NewConv2d(s, c, c, 1, 1, 0),
		cfg: cfg, channelsLast: channelsLast(s, torch.Float32),
	}
}

// Init fills the weights as PyTorch does by default, which is what the published models started
// from: uniforms of bound 1/sqrt(inputs of one output) for weights and biases, one and zero for
// the norms. It draws from gen on the CPU.
func (m *AutoencoderKL) Init(s *torch.Scope, gen *torch.Generator) {
	fill := func(weight, bias *torch.Tensor) {
		nn.KaimingUniform(s, gen, weight)
		nn.Uniform(s, gen, bias, 1/math.Sqrt(float64(weight.NumElements()/weight.Dim(0))))
	}
	params := nn.List(m)
	for i, p := range params {
		if p.Tensor.Rank() > 1 { // not a norm's; its bias comes next
			fill(p.Tensor, params[i+1].Tensor)
		}
	}
}

// Config returns what the model was made with.
func (m *AutoencoderKL) Config() Config { return m.cfg }

// Notes say what was assumed about the file the weights came from, because nothing there says it.
func (m *AutoencoderKL) Notes() []string { return m.notes }

// SetScalingFactor changes the scaling factor that the next [AutoencoderKL.Save] writes.
func (m *AutoencoderKL) SetScalingFactor(f float64) { m.cfg.ScalingFactor = f }

// Device returns where the weights are.
func (m *AutoencoderKL) Device() torch.Device { return m.QuantConv.Weight.Device() }

// WeightsSHA256 returns the hex SHA-256 of the weights file the model was opened from or saved to
// last, which names the model in manifests; "" for a model that was never in a file.
func (m *AutoencoderKL) WeightsSHA256() string { return m.sha256 }

// Close frees the weights.
func (m *AutoencoderKL) Close() { nn.Close(m) }

// Encode returns the mean and the log variance, clamped to [-30, 20], of the latents of x
// [N, 3, H, W] in [-1, 1], each [N, C, h, w]. H and W are multiples of Config().Downsample().
func (m *AutoencoderKL) Encode(s *torch.Scope, x *torch.Tensor) (mean, logvar *torch.Tensor) {
	return posterior(s, s.Sub(func(s *torch.Scope) *torch.Tensor {
		return s.Contiguous(m.QuantConv.Forward(s, m.Encoder.Forward(s, m.input(s, x))))
	}))
}

// posterior splits moments [N, 2C, h, w] into mean and clamped log variance.
func posterior(s *torch.Scope, moments *torch.Tensor) (mean, logvar *torch.Tensor) {
	parts := s.Chunk(moments, 2, 1)
	return parts[0], s.Clamp(parts[1], -30, 20)
}

// Decode returns the images [N, 3, H, W] of latents z [N, C, h, w], nominally in [-1, 1] but not
// limited to it.
func (m *AutoencoderKL) Decode(s *torch.Scope, z *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		return s.Contiguous(m.Decoder.Forward(s, m.PostQuantConv.Forward(s, m.input(s, z))))
	})
}

// Sample returns mean + exp(logvar / 2) noise, a latent drawn from the posterior if noise is
// standard normal. All are of one shape.
func Sample(s *torch.Scope, mean, logvar, noise *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		return s.Addcmul(mean, s.Exp(s.MulScalar(logvar, 0.5)), noise)
	})
}

// KL returns, [N], the divergence of each posterior from the standard normal: half the sum over the
// elements of mean^2 + exp(logvar) - 1 - logvar.
func KL(s *torch.Scope, mean, logvar *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		terms := s.Subtract(s.Add(s.Square(mean), s.Exp(logvar)), s.AddScalar(logvar, 1))
		return s.MulScalar(s.SumDims(terms, false, 1, 2, 3), 0.5)
	})
}

// Pixels turns rgb, n images as bytes [N, H, W, 3], into x [N, 3, H, W] in [-1, 1], rounded as DiT's
// training input is: (u/255 - 0.5) / 0.5.
func Pixels(s *torch.Scope, rgb []uint8, n, height, width int) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		return PixelsOf(s, torch.From(s, rgb, n, height, width, 3))
	})
}

// PixelsOf is [Pixels] of images rgb [N, H, W, 3], Uint8, that are on the device.
func PixelsOf(s *torch.Scope, rgb *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		x := s.Contiguous(s.Permute(rgb, 0, 3, 1, 2))
		x = s.Div(s.To(x, torch.Float32), s.Full(255, torch.Float32))
		return s.MulScalar(s.AddScalar(x, -0.5), 2)
	})
}

// RGB turns x [N, 3, H, W] in [-1, 1] into bytes [N, H, W, 3] as DiT's sample.py saves them: 127.5 x + 128, cut off.
// Numbers that are not finite are an error.
func RGB(s *torch.Scope, x *torch.Tensor) (rgb []uint8, err error) {
	err = s.Try(func(s *torch.Scope) error {
		if sum := s.Sum(s.To(x, torch.Float64)).Item(); math.IsNaN(sum) || math.IsInf(sum, 0) {
			return errors.New(
				"decode: the pixels are not finite numbers: the weights of the autoencoder are damaged, " +
					"or it is not the one of these latents")
		}
		x = s.To(x, torch.Float32) // 16 bits round up what is to be cut off
		x = s.Clamp(s.AddScalar(s.MulScalar(x, 127.5), 128), 0, 255)
		x = s.To(s.Contiguous(s.Permute(x, 0, 2, 3, 1)), torch.Uint8)
		rgb = torch.Data[uint8](x)
		return nil
	})
	return rgb, err
}
