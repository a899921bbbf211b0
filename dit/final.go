package dit

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// FinalLayer maps tokens to patches by way of an adaptive norm, as the blocks with adaptive norms have it.
type FinalLayer struct {
	Norm   nn.AdaLayerNorm
	Linear nn.Linear `dit:"linear"`
	AdaLN  nn.Linear `dit:"adaLN_modulation.1"`
}

// Forward maps x [N, T, D] to [N, T, P P Cout].
func (f *FinalLayer) Forward(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor {
	m := s.Chunk(c.Modulation(s, &f.AdaLN), 2, 1)
	shift, scale := m[0], m[1]
	return f.Linear.Forward(s, f.Norm.Modulate(s, x, shift, scale))
}

// Cost is that of t tokens.
func (f *FinalLayer) Cost(t, _ float64) nn.Cost {
	return nn.Costs(perSample(f.AdaLN.Cost(1)), f.Norm.Cost(t, float64(f.AdaLN.Weight.Dim(1))), f.Linear.Cost(t))
}

// Init leaves it at zero, so that the first output of a model is zero.
func (f *FinalLayer) Init(*torch.Scope, *torch.Generator) {}

// PlainFinalLayer maps tokens to patches behind blocks that have no adaptive norms.
type PlainFinalLayer struct {
	Norm   nn.LayerNorm `dit:"norm_final"`
	Linear nn.Linear    `dit:"linear"`
}

// Forward maps x [N, T, D] to [N, T, P P Cout].
func (f *PlainFinalLayer) Forward(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor {
	return f.Linear.Forward(s, s.To(f.Norm.Forward(s, x), c.DType))
}

// Cost is that of t tokens.
func (f *PlainFinalLayer) Cost(t, _ float64) nn.Cost {
	return nn.Costs(f.Norm.Cost(t), f.Linear.Cost(t))
}

// Init leaves it at zero.
func (f *PlainFinalLayer) Init(*torch.Scope, *torch.Generator) {}
