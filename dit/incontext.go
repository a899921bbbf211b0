package dit

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// InContextBlock is the paper's "In-context conditioning": a standard transformer block. The vectors of
// timestep and class stand in the sequence as two more tokens, treated no differently from those of the
// image, and are taken out after the last block.
type InContextBlock struct {
	Norm1 nn.LayerNorm `dit:"norm1"`
	Attn  Attention    `dit:"attn"`
	Norm2 nn.LayerNorm `dit:"norm2"`
	MLP   MLP          `dit:"mlp"`
}

func newInContextBlock(s *torch.Scope, cfg Config) Layer {
	return &InContextBlock{
		Norm1: nn.NewLayerNorm(s, cfg.HiddenSize, normEps), Attn: NewAttention(s, cfg),
		Norm2: nn.NewLayerNorm(s, cfg.HiddenSize, cfg.mlpNormEps()), MLP: NewMLP(s, cfg),
	}
}

// Forward maps the whole sequence x [N, T+S, D] to [N, T+S, D]. The mask of c is of the whole sequence.
func (b *InContextBlock) Forward(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor {
	x = s.Add(x, b.Attn.Forward(s, s.To(b.Norm1.Forward(s, x), c.DType), c.Mask))
	return s.Add(x, b.MLP.Forward(s, s.To(b.Norm2.Forward(s, x), c.DType)))
}

// Cost is that of the whole sequence.
func (b *InContextBlock) Cost(t, _ float64) nn.Cost {
	return nn.Costs(b.Norm1.Cost(t), b.Attn.Cost(t), b.Norm2.Cost(t), b.MLP.Cost(t))
}

// Init draws the matrices.
func (b *InContextBlock) Init(s *torch.Scope, gen *torch.Generator) {
	b.Attn.Init(s, gen)
	b.MLP.Init(s, gen)
}

// appendTokens puts the tokens of c, Float32 here, behind those of the image, x [N, T, D]. It returns the sequence
// [N, T+S, D] and the conditioning of its blocks.
func appendTokens(s *torch.Scope, x *torch.Tensor, c Conditioning) (*torch.Tensor, Conditioning) {
	all := Conditioning{DType: c.DType}
	if c.Mask != nil {
		all.Mask = s.Cat([]*torch.Tensor{s.Ones(torch.Bool, x.Dim(0), 1, 1, x.Dim(1)), c.Mask}, 3)
	}
	return s.Cat([]*torch.Tensor{x, c.Tokens}, 1), all
}
