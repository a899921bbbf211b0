package vae

import (
	"fmt"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// As returns a copy of the model for encoding and decoding in another type: its weights are cast, activations
// follow, and channelsLast keeps both in NHWC order, which CUDA's convolutions of 16-bit numbers want. It is the
// same model: it has the config and the checksum of m. Close frees it alone. Pictures and latents are given and
// returned in any type.
func (m *AutoencoderKL) As(dtype torch.DType, channelsLast bool) (*AutoencoderKL, error) {
	var out *AutoencoderKL
	err := torch.Run(m.Device(), func(s *torch.Scope) error {
		s = s.NoGrad()
		var err error
		if out, err = New(s, m.cfg); err != nil {
			return err
		}
		var cast []nn.Param
		for _, p := range nn.List(m) {
			t := s.To(p.Tensor, dtype)
			if dtype == p.Tensor.DType() {
				t = s.Clone(t) // the cast was none
			}
			if t.Rank() == 4 && channelsLast {
				t = s.ChannelsLast(t)
			}
			cast = append(cast, nn.Param{Name: p.Name, Tensor: torch.Persist(t)})
		}
		nn.Close(out)
		nn.Bind(out, cast)
		out.sha256, out.channelsLast = m.sha256, channelsLast
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("vae: %w", err)
	}
	return out, nil
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
