package vae

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// As returns m for encoding and decoding in another type: the weights of its products are cast, once, and activations
// follow. Where the device has kernels for it, both are in NHWC order (channels last) inside. It is the same model: it
// has the config, the checksum and the notes of m. What is cast belongs to s, the rest to m. Pictures and latents are
// given in any type, and returned in that of the weights.
func (m *AutoencoderKL) As(s *torch.Scope, dtype torch.DType) *AutoencoderKL {
	return m.as(s, dtype, channelsLast(s, dtype))
}

// channelsLast reports whether activations of a type are in NHWC order. CUDA's convolutions are faster with it, but
// libtorch's GroupNorm would lose more than they gain (docs/kernels.md): only ours, which takes no Float16, is fast.
// On a CPU row-major order is as fast forward and faster backward: see BenchmarkMemoryFormat.
func channelsLast(s *torch.Scope, dtype torch.DType) bool {
	if dtype == torch.Float16 || s.OnlyShapes() {
		return false
	}
	_, noKernels := torch.PluginStatus(s.Device())
	return noKernels == nil && torch.Fused()
}

func (m *AutoencoderKL) as(s *torch.Scope, dtype torch.DType, channelsLast bool) *AutoencoderKL {
	s = s.NoGrad()
	params := nn.List(m)
	for i, p := range params {
		if p.Product {
			params[i].Tensor = s.To(p.Tensor, dtype)
		}
		if p.Tensor.Rank() == 4 && channelsLast {
			params[i].Tensor = s.ChannelsLast(params[i].Tensor)
		}
	}
	out := nn.Copy(m)
	nn.Bind(out, params)
	out.channelsLast = channelsLast
	return out
}

// input brings a picture or a latent to the type and memory order of the model.
func (m *AutoencoderKL) input(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	x = s.To(x, m.QuantConv.Weight.DType())
	if m.channelsLast {
		return s.ChannelsLast(x)
	}
	return s.Contiguous(x) // libtorch would carry any other memory order through all layers
}
