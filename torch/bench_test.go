package torch_test

import (
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func benchmark(b *testing.B, f func(s *torch.Scope)) {
	torchtest.Run(b, func(s *torch.Scope) error { f(s); return nil })
}

// The cost of one operation beside its arithmetic: cgo, the scope's books and libtorch's dispatch.
func BenchmarkAdd8x8(b *testing.B) {
	benchmark(b, func(s *torch.Scope) {
		x := s.Ones(torch.Float32, 8, 8)
		s = s.NoGrad()
		for b.Loop() {
			s.Sub(func(s *torch.Scope) *torch.Tensor {
				for range 100 {
					s.Add(x, x)
				}
				return nil
			})
		}
	})
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/add")
}

func BenchmarkScope(b *testing.B) {
	benchmark(b, func(s *torch.Scope) {
		for b.Loop() {
			s.Sub(func(*torch.Scope) *torch.Tensor { return nil })
		}
	})
}

// One block of DiT-S on four samples of 64 tokens, without its conditioning's linear layer.
func BenchmarkBlock(b *testing.B) {
	const n, tokens, d, heads = 4, 64, 384, 6
	for _, train := range []bool{false, true} {
		name := map[bool]string{false: "forward", true: "train"}[train]
		b.Run(name, func(b *testing.B) {
			benchmark(b, func(s *torch.Scope) {
				weight := func(dims ...int) *torch.Tensor {
					w := s.Full(0.01, torch.Float32, dims...)
					w.SetRequiresGrad(train)
					return w
				}
				qkv, proj, up, down := weight(3*d, d), weight(d, d), weight(4*d, d), weight(d, 4*d)
				x, c := s.Ones(torch.Float32, n, tokens, d), s.Full(0.1, torch.Float32, n, d)
				block := func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
					h := s.Linear(s.AdaLayerNorm(x, c, c, 1e-6), qkv, nil)
					p := s.Unbind(s.Permute(s.Reshape(h, n, tokens, 3, heads, d/heads), 2, 0, 3, 1, 4), 3, 0)
					a := s.ScaledDotProductAttention(p[0], p[1], p[2])
					x = s.GatedAdd(x, c, s.Linear(s.Reshape(s.Transpose(a, 1, 2), n, tokens, d), proj, nil))
					return s.GatedAdd(x, c, s.Linear(s.GELU(s.Linear(s.AdaLayerNorm(x, c, c, 1e-6), up, nil)), down,
						nil))
				}
				for b.Loop() {
					s.Sub(func(s *torch.Scope) *torch.Tensor {
						y := s.Sub(func(s *torch.Scope) *torch.Tensor { return block(s, x) })
						if train {
							s.Backward(s.Mean(y))
							for _, w := range []*torch.Tensor{qkv, proj, up, down} {
								w.ClearGrad()
							}
						}
						return nil
					})
				}
				s.Synchronize()
			})
		})
	}
}
