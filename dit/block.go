package dit

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// Block is one adaLN-Zero transformer block (DiT paper, figure 3). The conditioning gives, through one
// linear layer, a shift, a scale and a gate for the attention and for the MLP. The gates start at zero,
// so that a new block is the identity.
type Block struct {
	Norm1, Norm2 nn.AdaLayerNorm // no weights: their scale and shift come from c
	Attn         Attention       `dit:"attn"`
	Text         *CrossAttend    `dit:"cross_attn"` // nil without text
	MLP          MLP             `dit:"mlp"`
	AdaLN        nn.Linear       `dit:"adaLN_modulation.1"`
}

func newBlock(s *torch.Scope, cfg Config) Layer {
	return &Block{
		Norm1: nn.AdaLayerNorm{Eps: normEps}, Norm2: nn.AdaLayerNorm{Eps: cfg.mlpNormEps()},
		Attn: NewAttention(s, cfg), Text: newTextAttention(s, cfg), MLP: NewMLP(s, cfg),
		AdaLN: nn.NewLinear(s, cfg.HiddenSize, 6*cfg.HiddenSize),
	}
}

// Forward maps tokens x [N, T, D] to tokens [N, T, D]. Text acts after the attention among the tokens,
// with neither norm nor gate (PixArt-alpha, arXiv:2310.00426, section 2.3).
func (b *Block) Forward(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor {
	m := s.Chunk(c.Modulation(s, &b.AdaLN), 6, 1) // six of [N, D]
	shiftMSA, scaleMSA, gateMSA, shiftMLP, scaleMLP, gateMLP := m[0], m[1], m[2], m[3], m[4], m[5]
	x, h := b.Norm1.Branch(s, x, shiftMSA, scaleMSA)
	h = b.Attn.Forward(s, h, nil)
	if b.Text == nil {
		x, h = b.Norm2.GatedBranch(s, x, gateMSA, h, shiftMLP, scaleMLP)
	} else {
		x = s.GatedAdd(x, gateMSA, h)
		x = s.Add(x, b.Text.Forward(s, x, c.Tokens, c.Mask))
		x, h = b.Norm2.Branch(s, x, shiftMLP, scaleMLP)
	}
	return s.GatedAdd(x, gateMLP, b.MLP.Forward(s, h))
}

// Cost is that of t tokens; the modulation is computed once a sample.
func (b *Block) Cost(t, context float64) nn.Cost {
	d := float64(b.AdaLN.Weight.Dim(1))
	gates := nn.Cost{Saved: 2 * t * d} // what they multiply
	attention := nn.Costs(b.Norm1.Cost(t, d), b.Attn.Cost(t), b.Text.Cost(t, context))
	return nn.Costs(perSample(b.AdaLN.Cost(1)), attention, b.Norm2.Cost(t, d), b.MLP.Cost(t), gates)
}

// Init leaves the modulation at zero, and what text adds.
func (b *Block) Init(s *torch.Scope, gen *torch.Generator) {
	b.Attn.Init(s, gen)
	b.MLP.Init(s, gen)
	if b.Text != nil {
		b.Text.Init(s, gen)
	}
}
