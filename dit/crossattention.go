package dit

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// CrossAttentionBlock is the paper's "Cross-attention block": the vectors of timestep and class are a
// sequence of two, apart from the tokens of the image, and a multi-head cross-attention layer after the
// self-attention looks at it, as in the decoder of Vaswani et al. and in LDM.
type CrossAttentionBlock struct {
	Norm1 nn.LayerNorm `dit:"norm1"`
	Attn  Attention    `dit:"attn"`
	Norm2 nn.LayerNorm `dit:"norm2"`
	Cross CrossAttend  `dit:"cross_attn"`
	Norm3 nn.LayerNorm `dit:"norm3"`
	MLP   MLP          `dit:"mlp"`
}

func newCrossAttentionBlock(s *torch.Scope, cfg Config) Layer {
	d := cfg.HiddenSize
	return &CrossAttentionBlock{
		Norm1: nn.NewLayerNorm(s, d, normEps), Attn: NewAttention(s, cfg),
		Norm2: nn.NewLayerNorm(s, d, normEps), Cross: newCrossAttend(s, cfg),
		Norm3: nn.NewLayerNorm(s, d, cfg.mlpNormEps()), MLP: NewMLP(s, cfg),
	}
}

// Forward maps tokens x [N, T, D] to tokens [N, T, D].
func (b *CrossAttentionBlock) Forward(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor {
	x = s.Add(x, b.Attn.Forward(s, s.To(b.Norm1.Forward(s, x), c.DType), nil))
	x = s.Add(x, b.Cross.Forward(s, b.Norm2.Forward(s, x), c.Tokens, c.Mask))
	return s.Add(x, b.MLP.Forward(s, s.To(b.Norm3.Forward(s, x), c.DType)))
}

// Cost is that of t tokens that look at context others.
func (b *CrossAttentionBlock) Cost(t, context float64) nn.Cost {
	return nn.Costs(b.Norm1.Cost(t), b.Attn.Cost(t), b.Norm2.Cost(t), b.Cross.Cost(t, context), b.Norm3.Cost(t),
		b.MLP.Cost(t))
}

// Init draws the matrices, that of the output of the cross-attention too.
func (b *CrossAttentionBlock) Init(s *torch.Scope, gen *torch.Generator) {
	b.Attn.Init(s, gen)
	b.Cross.Init(s, gen)
	nn.XavierUniform(s, gen, b.Cross.Proj.Weight)
	b.MLP.Init(s, gen)
}

// CrossAttend is multi-head attention of tokens to another sequence.
type CrossAttend struct {
	Q        nn.Linear `dit:"q"`
	KV       nn.Linear `dit:"kv"`
	Proj     nn.Linear `dit:"proj"`
	NumHeads int
}

func newCrossAttend(s *torch.Scope, cfg Config) CrossAttend {
	d := cfg.HiddenSize
	return CrossAttend{nn.NewLinear(s, d, d), nn.NewLinear(s, d, 2*d), nn.NewLinear(s, d, d), cfg.NumHeads}
}

// newTextAttention makes the attention to text of the two adaptive blocks, nil for a model without text.
func newTextAttention(s *torch.Scope, cfg Config) *CrossAttend {
	if !cfg.HasText() {
		return nil
	}
	a := newCrossAttend(s, cfg)
	return &a
}

// Forward lets x [N, T, D] look at tokens [N, S, D], those that mask (Bool [N, 1, 1, S], nil for all)
// is true for. The result is [N, T, D], of the type of tokens.
func (a *CrossAttend) Forward(s *torch.Scope, x, tokens, mask *torch.Tensor) *torch.Tensor {
	n, t, d := x.Dim(0), x.Dim(1), x.Dim(2)
	hd := d / a.NumHeads
	q := s.Transpose(s.Reshape(a.Q.Forward(s, s.To(x, tokens.DType())), n, t, a.NumHeads, hd), 1, 2) // [N, H, T, D/H]
	kv := s.Reshape(a.KV.Forward(s, tokens), n, tokens.Dim(1), 2, a.NumHeads, hd)
	h := s.Unbind(s.Permute(kv, 2, 0, 3, 1, 4), 2, 0) // two of [N, H, S, D/H]
	y := attend(s, q, h[0], h[1], mask)
	return a.Proj.Forward(s, s.Reshape(s.Transpose(y, 1, 2), n, t, d))
}

func attend(s *torch.Scope, q, k, v, mask *torch.Tensor) *torch.Tensor {
	if mask == nil {
		return s.ScaledDotProductAttention(q, k, v)
	}
	return s.MaskedAttention(q, k, v, mask)
}

// Cost is that of t tokens that look at context others, which all blocks share. It is zero for a layer that is not
// there.
func (a *CrossAttend) Cost(t, context float64) nn.Cost {
	if a == nil {
		return nn.Cost{}
	}
	keysValues := nn.Cost{MACs: a.KV.Cost(context).MACs}
	return nn.Costs(a.Q.Cost(t), keysValues, nn.AttentionCost(t, context, float64(a.Proj.Weight.Dim(1))),
		a.Proj.Cost(t))
}

// Init leaves the output at zero: a layer that is added to a block leaves it what it was.
func (a *CrossAttend) Init(s *torch.Scope, gen *torch.Generator) {
	nn.XavierUniform(s, gen, a.Q.Weight)
	nn.XavierUniform(s, gen, a.KV.Weight)
}
