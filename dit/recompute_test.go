package dit

import (
	"bytes"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Recomputing changes no bit of the output and of any gradient, in any design; the gradients of two passes add up.
func TestRecomputing(t *testing.T) {
	goldenDesigns(t, func(t *testing.T, s *torch.Scope, g *torchtest.Goldens, _ string, m *DiT) {
		for _, precision := range []torch.DType{torch.Float32, torch.BFloat16} {
			m.SetPrecision(precision)
			x, steps, cond, w := g.Tensor(s, "x"), g.Tensor(s, "t"), goldenCondition(s, g), g.Tensor(s, "w")
			// gradients by name, after two passes
			gradients := func(forward func() (*torch.Tensor, func())) (out [][]byte) {
				for range 2 {
					y, rest := forward()
					s.Backward(s.Sum(s.Mul(y, w)))
					rest()
					out = append(out, bytes.Clone(y.Bytes()))
				}
				for _, p := range nn.List(m) {
					if p.Name == posEmbed {
						continue
					}
					grad := s.Grad(p.Tensor)
					if grad == nil {
						t.Fatalf("%s has no gradient", p.Name)
					}
					out = append(out, bytes.Clone(grad.Bytes()))
					p.Tensor.ClearGrad()
				}
				return out
			}
			want := gradients(func() (*torch.Tensor, func()) { return m.Forward(s, x, steps, cond), func() {} })
			got := gradients(func() (*torch.Tensor, func()) { return m.ForwardRecomputing(s, x, steps, cond) })
			for i := range want {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("%v: tensor %d of outputs and gradients differs", precision, i)
				}
			}
		}
	})
}
