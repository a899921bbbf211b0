package dit

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// Block is one adaLN-Zero transformer block (DiT paper, figure 3). The conditioning c gives, through
// one linear layer, a shift, a scale and a gate for the attention and for the MLP. The gates start at
// zero, so that a new block is the identity.
type Block struct {
	Norm1, Norm2 nn.AdaLayerNorm // no weights: their scale and shift come from c
	Attn         Attention       `dit:"attn"`
	MLP          MLP             `dit:"mlp"`
	AdaLN        nn.Linear       `dit:"adaLN_modulation.1"`
}

// Forward maps tokens x [N, T, D] under conditioning c [N, D] to tokens [N, T, D].
func (b *Block) Forward(s *torch.Scope, x, c *torch.Tensor) *torch.Tensor {
	m := s.Chunk(b.AdaLN.Forward(s, s.SiLU(c)), 6, 1) // six of [N, D]
	shiftMSA, scaleMSA, gateMSA, shiftMLP, scaleMLP, gateMLP := m[0], m[1], m[2], m[3], m[4], m[5]
	x = s.GatedAdd(x, gateMSA, b.Attn.Forward(s, b.Norm1.Modulate(s, x, shiftMSA, scaleMSA)))
	return s.GatedAdd(x, gateMLP, b.MLP.Forward(s, b.Norm2.Modulate(s, x, shiftMLP, scaleMLP)))
}

// Attention is multi-head self-attention with one matrix for queries, keys and values.
type Attention struct {
	QKV      nn.Linear `dit:"qkv"`
	Proj     nn.Linear `dit:"proj"`
	NumHeads int
}

// Forward maps x [N, T, D] to [N, T, D].
func (a *Attention) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	n, t, d := x.Dim(0), x.Dim(1), x.Dim(2)
	qkv := s.Reshape(a.QKV.Forward(s, x), n, t, 3, a.NumHeads, d/a.NumHeads)
	h := s.Unbind(s.Permute(qkv, 2, 0, 3, 1, 4), 3, 0) // three of [N, H, T, D/H]
	y := s.ScaledDotProductAttention(h[0], h[1], h[2])
	return a.Proj.Forward(s, s.Reshape(s.Transpose(y, 1, 2), n, t, d))
}

// MLP is the feed-forward part: Linear, GELU (tanh form), Linear.
type MLP struct {
	FC1 nn.Linear `dit:"fc1"`
	FC2 nn.Linear `dit:"fc2"`
}

// Forward maps x [N, T, D] to [N, T, D].
func (m *MLP) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return m.FC2.Forward(s, s.GELU(m.FC1.Forward(s, x)))
}

// FinalLayer maps tokens to patches under the conditioning.
type FinalLayer struct {
	Norm   nn.AdaLayerNorm
	Linear nn.Linear `dit:"linear"`
	AdaLN  nn.Linear `dit:"adaLN_modulation.1"`
}

// Forward maps x [N, T, D] and c [N, D] to [N, T, P P Cout].
func (f *FinalLayer) Forward(s *torch.Scope, x, c *torch.Tensor) *torch.Tensor {
	m := s.Chunk(f.AdaLN.Forward(s, s.SiLU(c)), 2, 1)
	shift, scale := m[0], m[1]
	return f.Linear.Forward(s, f.Norm.Modulate(s, x, shift, scale))
}
