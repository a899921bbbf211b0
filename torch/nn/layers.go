package nn

import "github.com/ditrun/ditrun/torch"

// Parameter makes a persistent Float32 tensor of zeros on the scope's device that autograd tracks.
// Constructors use it; the model's own initialisation fills it. On a scope of [torch.Shapes] it has no elements.
func Parameter(s *torch.Scope, dims ...int) *torch.Tensor {
	if s.OnlyShapes() {
		return s.Placeholder(torch.Float32, dims...)
	}
	t := torch.Persist(s.NoGrad().Zeros(torch.Float32, dims...))
	t.SetRequiresGrad(true)
	return t
}

// ones is Parameter, filled with ones.
func ones(s *torch.Scope, dims ...int) *torch.Tensor {
	t := Parameter(s, dims...)
	if !s.OnlyShapes() {
		s.NoGrad().Fill_(t, 1)
	}
	return t
}

// Constant makes a persistent Float32 tensor that is not trained. On a scope of [torch.Shapes] it has no elements, and
// values is not called.
func Constant(s *torch.Scope, values func() []float32, dims ...int) *torch.Tensor {
	if s.OnlyShapes() {
		return s.Placeholder(torch.Float32, dims...)
	}
	return torch.Persist(torch.From(s, values(), dims...))
}

// cast returns the parameter p in the type of the activation x: the masters stay Float32, and
// autograd carries the cast back.
func cast(s *torch.Scope, p, x *torch.Tensor) *torch.Tensor {
	if p == nil || p.DType() == x.DType() {
		return p
	}
	return s.To(p, x.DType())
}

// Linear is y = x W^T + b. Weight is [out, in], Bias [out] or nil.
type Linear struct {
	Weight *torch.Tensor `dit:"weight,product"`
	Bias   *torch.Tensor `dit:"bias,optional,product"`
}

// NewLinear makes a layer of zeros with a bias.
func NewLinear(s *torch.Scope, in, out int) Linear {
	return Linear{Parameter(s, out, in), Parameter(s, out)}
}

// Forward maps x [..., in] to [..., out].
func (l *Linear) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Linear(x, cast(s, l.Weight, x), cast(s, l.Bias, x))
}

// MLP is fc2 of GELU, in the tanh approximation, of fc1. Both have a bias.
func MLP(s *torch.Scope, fc1, fc2 *Linear, x *torch.Tensor) *torch.Tensor {
	return s.MLP(x, cast(s, fc1.Weight, x), cast(s, fc1.Bias, x), cast(s, fc2.Weight, x), cast(s, fc2.Bias, x))
}

// Conv2d is a square convolution. Weight is [out, in, k, k], Bias [out].
type Conv2d struct {
	Weight          *torch.Tensor `dit:"weight,product"`
	Bias            *torch.Tensor `dit:"bias,product"`
	Stride, Padding int
}

// NewConv2d makes a convolution of zeros with kernel size k.
func NewConv2d(s *torch.Scope, in, out, k, stride, padding int) Conv2d {
	return Conv2d{Parameter(s, out, in, k, k), Parameter(s, out), stride, padding}
}

// Forward maps x [N, in, H, W] to [N, out, H', W'] with H' = (H + 2 padding - k) / stride + 1.
func (c *Conv2d) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Conv2d(x, cast(s, c.Weight, x), cast(s, c.Bias, x), c.Stride, c.Padding)
}

// GroupNorm normalises over groups of channels. Weight and Bias are [C].
type GroupNorm struct {
	Weight *torch.Tensor `dit:"weight"`
	Bias   *torch.Tensor `dit:"bias"`
	Groups int
	Eps    float64
}

// NewGroupNorm makes the identity scale and shift.
func NewGroupNorm(s *torch.Scope, groups, channels int, eps float64) GroupNorm {
	return GroupNorm{ones(s, channels), Parameter(s, channels), groups, eps}
}

// Forward normalises x [N, C, ...].
func (g *GroupNorm) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.GroupNorm(x, g.Groups, g.Weight, g.Bias, g.Eps)
}

// SiLU is SiLU of what Forward returns, in one pass where there is a kernel for it.
func (g *GroupNorm) SiLU(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.GroupNormSiLU(x, g.Groups, g.Weight, g.Bias, g.Eps)
}

// LayerNorm normalises over the last dimension. Weight and Bias are [D].
type LayerNorm struct {
	Weight *torch.Tensor `dit:"weight"`
	Bias   *torch.Tensor `dit:"bias"`
	Eps    float64
}

// NewLayerNorm makes the identity scale and shift.
func NewLayerNorm(s *torch.Scope, dim int, eps float64) LayerNorm {
	return LayerNorm{ones(s, dim), Parameter(s, dim), eps}
}

// Forward normalises x [..., D].
func (l *LayerNorm) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.LayerNorm(x, []int{x.Dim(-1)}, cast(s, l.Weight, x), cast(s, l.Bias, x), l.Eps)
}

// AdaLayerNorm is LayerNorm without weights of its own: scale and shift come from the conditioning.
type AdaLayerNorm struct{ Eps float64 }

// Modulate returns LayerNorm(x) (1 + scale) + shift for x [N, T, D], shift and scale [N, D]. It computes in the type of
// x, and returns that of shift.
func (n AdaLayerNorm) Modulate(s *torch.Scope, x, shift, scale *torch.Tensor) *torch.Tensor {
	return s.AdaLayerNorm(x, shift, scale, n.Eps)
}

// Branch begins a branch of a residual block, which computes with h, that of [AdaLayerNorm.Modulate]. What the branch
// gives is added to the x that is returned, which is x: so the backward pass of the norm adds its gradient to that of
// the sum.
func (n AdaLayerNorm) Branch(s *torch.Scope, x, shift, scale *torch.Tensor) (same, h *torch.Tensor) {
	both := s.ResidualAdaLayerNorm(x, nil, nil, shift, scale, n.Eps)
	return both[0], both[1]
}

// GatedBranch ends one branch, which gave y [N, T, D], and begins the next, in one pass: it is x + gate y, and Branch
// of that.
func (n AdaLayerNorm) GatedBranch(s *torch.Scope, x, gate, y, shift, scale *torch.Tensor) (sum, h *torch.Tensor) {
	both := s.ResidualAdaLayerNorm(x, gate, y, shift, scale, n.Eps)
	return both[0], both[1]
}

// Embedding is a table of vectors. Weight is [entries, D].
type Embedding struct {
	Weight *torch.Tensor `dit:"weight"`
}

// NewEmbedding makes a table of zeros.
func NewEmbedding(s *torch.Scope, entries, dim int) Embedding {
	return Embedding{Parameter(s, entries, dim)}
}

// Forward picks the rows ids (Int64, any shape) as [..., D].
func (e *Embedding) Forward(s *torch.Scope, ids *torch.Tensor) *torch.Tensor {
	return s.Embedding(e.Weight, ids)
}
