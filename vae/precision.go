package vae

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// As returns m for encoding and decoding in another type: its weights are cast, activations follow, and channelsLast
// keeps both in NHWC order. It is the same model: it has the config, the checksum and the notes of m. What is cast
// belongs to s, the rest to m. Pictures and latents are given in any type, and returned in that of the weights.
func (m *AutoencoderKL) As(s *torch.Scope, dtype torch.DType, channelsLast bool) *AutoencoderKL {
	s = s.NoGrad()
	params := nn.List(m)
	for i, p := range params {
		if p.Tensor.DType() != dtype {
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

// input brings a picture or a latent to the type and memory order of the weights.
func (m *AutoencoderKL) input(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	x = s.To(x, m.QuantConv.Weight.DType())
	if m.channelsLast {
		return s.ChannelsLast(x)
	}
	// Libtorch would carry any other memory order through all layers. Row-major is as fast as channels last forward
	// and faster backward on a CPU: see BenchmarkMemoryFormat.
	return s.Contiguous(x)
}
