package dit

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// A Layer is a block, or the final layer. Its parameters are fields of a struct with tags, see package nn.
type Layer interface {
	// Forward maps tokens x [N, T, D] under the conditioning to as many. Those of a block are Float32, also where
	// matrix products are not: it adds to them, and a sum is of the wider type.
	Forward(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor
	// Init fills the parameters, which are zero, those of norms the identity.
	Init(s *torch.Scope, gen *torch.Generator)
	// Cost is what Forward takes for one sample of so many tokens that looks at context tokens of the conditioning.
	Cost(tokens, context float64) nn.Cost
}

// A Conditioning is what acts on the tokens, computed once a forward pass. Timestep and class are a Vector
// for the blocks with adaptive norms, which take it through Modulation, and Tokens for the others; text is Tokens for
// all.
type Conditioning struct {
	Vector *torch.Tensor // [N, D]: the sum of the vectors of timestep and class
	Tokens *torch.Tensor // [N, S, D]: the vectors of timestep and class, then text
	Mask   *torch.Tensor // Bool [N, 1, 1, S], true for the tokens that count; nil: all do
	// DType is that of matrix products, and of Vector and Tokens.
	DType torch.DType

	// Where modulations were computed before: those of each sample, [N, K], and where a layer's begin, by its weights.
	rows    *torch.Tensor
	columns map[*torch.Tensor]int
}

// Attention is multi-head self-attention with one matrix for queries, keys and values.
type Attention struct {
	QKV      nn.Linear `dit:"qkv"`
	Proj     nn.Linear `dit:"proj"`
	NumHeads int
}

// NewAttention makes the attention of a block, of zeros.
func NewAttention(s *torch.Scope, cfg Config) Attention {
	d := cfg.HiddenSize
	return Attention{nn.NewLinear(s, d, 3*d), nn.NewLinear(s, d, d), cfg.NumHeads}
}

// Forward maps x [N, T, D] to [N, T, D]. Tokens look at those that mask (Bool [N, 1, 1, T], nil for all)
// is true for.
func (a *Attention) Forward(s *torch.Scope, x, mask *torch.Tensor) *torch.Tensor {
	return a.Proj.Forward(s, s.PackedAttention(a.QKV.Forward(s, x), a.NumHeads, mask))
}

// Cost is that of t tokens.
func (a *Attention) Cost(t float64) nn.Cost {
	return nn.Costs(a.QKV.Cost(t), nn.AttentionCost(t, t, float64(a.Proj.Weight.Dim(1))), a.Proj.Cost(t))
}

// Init takes the fused matrix of queries, keys and values for one matrix of 3D rows, as the original does.
func (a *Attention) Init(s *torch.Scope, gen *torch.Generator) {
	nn.XavierUniform(s, gen, a.QKV.Weight)
	nn.XavierUniform(s, gen, a.Proj.Weight)
}

// MLP is the feed-forward part: Linear, GELU (tanh form), Linear.
type MLP struct {
	FC1 nn.Linear `dit:"fc1"`
	FC2 nn.Linear `dit:"fc2"`
}

// NewMLP makes the feed-forward part of a block, of zeros.
func NewMLP(s *torch.Scope, cfg Config) MLP {
	d, hidden := cfg.HiddenSize, cfg.mlpHidden()
	return MLP{nn.NewLinear(s, d, hidden), nn.NewLinear(s, hidden, d)}
}

// Forward maps x [N, T, D] to [N, T, D].
func (m *MLP) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return nn.MLP(s, &m.FC1, &m.FC2, x)
}

// Cost is that of t tokens. What GELU takes is kept too.
func (m *MLP) Cost(t float64) nn.Cost {
	return nn.Costs(m.FC1.Cost(t), nn.Cost{Saved: t * float64(m.FC1.Weight.Dim(0))}, m.FC2.Cost(t))
}

// Init draws both matrices.
func (m *MLP) Init(s *torch.Scope, gen *torch.Generator) {
	nn.XavierUniform(s, gen, m.FC1.Weight)
	nn.XavierUniform(s, gen, m.FC2.Weight)
}
