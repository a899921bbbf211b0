package dit

import (
	"slices"

	"github.com/ditrun/ditrun/torch"
)

// ForwardRecomputing is [DiT.Forward] for training in less memory: of the blocks it keeps their inputs alone, [N,
// T, D] each, and computes what their gradients need a second time (Chen et al., arXiv:1604.06174), which adds a
// forward pass to the three that a step takes. After the Backward of a loss of the output, finish has to be called
// once: it takes the gradients on through the blocks to the embeddings. They are the same to the bit. Each weight
// gets its gradient in one go, as a step over several processes needs.
func (m *DiT) ForwardRecomputing(s *torch.Scope, x, t *torch.Tensor, cond Condition) (out *torch.Tensor,
	finish func()) {
	x, c := m.embed(s, x, t, cond)
	own := Conditioning{Vector: leaf(s, c.Vector), Tokens: leaf(s, c.Tokens), Mask: c.Mask, DType: c.DType}
	inputs := []*torch.Tensor{s.Detach(x)} // of the blocks, and of the final layer
	for i, b := range m.Blocks {
		inputs = append(inputs, s.NoGrad().Sub(
			func(s *torch.Scope) *torch.Tensor { return b.Forward(s, inputs[i], own) }))
	}
	last := leaf(s, inputs[len(m.Blocks)])
	out = m.patches(s, last, own)
	return out, func() {
		grad := s.Grad(last)
		for i, b := range slices.Backward(m.Blocks) {
			grad = s.Sub(func(s *torch.Scope) *torch.Tensor {
				in := leaf(s, inputs[i])
				s.Backward(vectorJacobian(s, b.Forward(s, in, own), grad))
				return s.Grad(in)
			})
			s.Release(inputs[i+1])
		}
		start := vectorJacobian(s, x, grad)
		for _, v := range [][2]*torch.Tensor{{c.Vector, own.Vector}, {c.Tokens, own.Tokens}} {
			if v[1] != nil && s.Grad(v[1]) != nil { // tokens in context go through x
				start = s.Add(start, vectorJacobian(s, v[0], s.Grad(v[1])))
			}
		}
		s.Backward(start)
	}
}

// leaf is x, which may be nil, as a tensor that begins a graph of its own.
func leaf(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	if x == nil {
		return nil
	}
	x = s.Detach(x)
	x.SetRequiresGrad(true)
	return x
}

// vectorJacobian is a scalar whose gradients are those of y times grad.
func vectorJacobian(s *torch.Scope, y, grad *torch.Tensor) *torch.Tensor {
	return s.Sum(s.Mul(y, grad))
}
