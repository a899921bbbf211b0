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
		Attn: newAttention(s, cfg), Text: newTextAttention(s, cfg), MLP: newMLP(s, cfg),
		AdaLN: nn.NewLinear(s, cfg.HiddenSize, 6*cfg.HiddenSize),
	}
}

// Forward maps tokens x [N, T, D] to tokens [N, T, D]. Text acts after the attention among the tokens,
// with neither norm nor gate (PixArt-alpha, arXiv:2310.00426, section 2.3).
func (b *Block) Forward(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor {
	m := s.Chunk(b.AdaLN.Forward(s, s.SiLU(c.Vector)), 6, 1) // six of [N, D]
	shiftMSA, scaleMSA, gateMSA, shiftMLP, scaleMLP, gateMLP := m[0], m[1], m[2], m[3], m[4], m[5]
	x = s.GatedAdd(x, gateMSA, b.Attn.Forward(s, b.Norm1.Modulate(s, x, shiftMSA, scaleMSA), nil))
	if b.Text != nil {
		x = s.Add(x, b.Text.Forward(s, x, c.Tokens, c.Mask))
	}
	return s.GatedAdd(x, gateMLP, b.MLP.Forward(s, b.Norm2.Modulate(s, x, shiftMLP, scaleMLP)))
}

// init leaves the modulation at zero, and what text adds.
func (b *Block) init(s *torch.Scope, gen *torch.Generator) {
	b.Attn.init(s, gen)
	b.MLP.init(s, gen)
	if b.Text != nil {
		b.Text.init(s, gen)
	}
}
