package dit

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// AdaLNBlock is the paper's "Adaptive layer norm (adaLN) block": the layer norms of a standard block get
// their scale and shift from the sum of the vectors of timestep and class, the same for every token.
// It has no gates, and starts as an ordinary transformer block, not as the identity.
type AdaLNBlock struct {
	Norm1, Norm2 nn.AdaLayerNorm // no weights: their scale and shift come from c
	Attn         Attention       `dit:"attn"`
	Text         *CrossAttend    `dit:"cross_attn"` // nil without text
	MLP          MLP             `dit:"mlp"`
	AdaLN        nn.Linear       `dit:"adaLN_modulation.1"`
}

func newAdaLNBlock(s *torch.Scope, cfg Config) Layer {
	return &AdaLNBlock{
		Norm1: nn.AdaLayerNorm{Eps: normEps}, Norm2: nn.AdaLayerNorm{Eps: cfg.mlpNormEps()},
		Attn: NewAttention(s, cfg), Text: newTextAttention(s, cfg), MLP: NewMLP(s, cfg),
		AdaLN: nn.NewLinear(s, cfg.HiddenSize, 4*cfg.HiddenSize),
	}
}

// Forward maps tokens x [N, T, D] to tokens [N, T, D].
func (b *AdaLNBlock) Forward(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor {
	m := s.Chunk(c.Modulation(s, &b.AdaLN), 4, 1) // four of [N, D]
	shiftMSA, scaleMSA, shiftMLP, scaleMLP := m[0], m[1], m[2], m[3]
	x = s.Add(x, b.Attn.Forward(s, b.Norm1.Modulate(s, x, shiftMSA, scaleMSA), nil))
	if b.Text != nil {
		x = s.Add(x, b.Text.Forward(s, x, c.Tokens, c.Mask))
	}
	return s.Add(x, b.MLP.Forward(s, b.Norm2.Modulate(s, x, shiftMLP, scaleMLP)))
}

// Cost is that of t tokens; the modulation is computed once a sample.
func (b *AdaLNBlock) Cost(t, context float64) nn.Cost {
	d := float64(b.AdaLN.Weight.Dim(1))
	attention := nn.Costs(b.Norm1.Cost(t, d), b.Attn.Cost(t), b.Text.Cost(t, context))
	return nn.Costs(perSample(b.AdaLN.Cost(1)), attention, b.Norm2.Cost(t, d), b.MLP.Cost(t))
}

// Init gives the modulation the weights of any linear layer: starting it at zero is what adaLN-Zero adds.
func (b *AdaLNBlock) Init(s *torch.Scope, gen *torch.Generator) {
	b.Attn.Init(s, gen)
	b.MLP.Init(s, gen)
	nn.XavierUniform(s, gen, b.AdaLN.Weight)
	if b.Text != nil {
		b.Text.Init(s, gen)
	}
}
