package torch_test

import (
	"math"
	"testing"
	"time"

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

// What fusing an operation gives on the CPU, at the sizes of DiT-S/2 on eight samples: both are measured in turn, so
// that a busy machine slows both. The figures are those of the fastest of each, and their ratio.
func BenchmarkFused(b *testing.B) {
	const n, tokens, d, heads = 8, 256, 384, 6
	for _, c := range []struct {
		name   string
		shapes [][]int
		f      func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor
	}{
		{"Linear", [][]int{{n, tokens, d}, {3 * d, d}, {3 * d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.Linear(in[0], in[1], in[2])
			}},
		{"LinearGELU", [][]int{{n, tokens, d}, {4 * d, d}, {4 * d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.LinearGELU(in[0], in[1], in[2])
			}},
		{"PackedAttention", [][]int{{n, tokens, 3 * d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.PackedAttention(in[0], heads, nil)
			}},
		{"AdaLayerNorm", [][]int{{n, tokens, d}, {n, d}, {n, d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.AdaLayerNorm(in[0], in[1], in[2], 1e-6)
			}},
		{"GatedAdd", [][]int{{n, tokens, d}, {n, d}, {n, tokens, d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.GatedAdd(in[0], in[1], in[2])
			}},
	} {
		for _, train := range []bool{false, true} {
			name := c.name + map[bool]string{false: "/forward", true: "/train"}[train]
			b.Run(name, func(b *testing.B) {
				defer torch.SetFused(true)
				benchmark(b, func(s *torch.Scope) {
					var in []*torch.Tensor
					for i, shape := range c.shapes {
						in = append(in, s.MulScalar(torchtest.Normal(s, uint64(i), shape[0], shape[1:]...),
							1/math.Sqrt(float64(shape[len(shape)-1]))))
						in[i].SetRequiresGrad(train)
					}
					grad := c.f(s.NoGrad(), in)
					step := func(s *torch.Scope) {
						out := c.f(s, in)
						if !train {
							return
						}
						s.Backward(s.Sum(s.Mul(out, grad)))
						for _, x := range in {
							x.ClearGrad()
						}
					}
					best := map[bool]time.Duration{false: math.MaxInt64, true: math.MaxInt64}
					for b.Loop() {
						for fused := range best {
							torch.SetFused(fused)
							s.Sub(func(s *torch.Scope) *torch.Tensor {
								began := time.Now()
								step(s)
								s.Synchronize()
								best[fused] = min(best[fused], time.Since(began))
								return nil
							})
						}
					}
					ms := func(fused bool) float64 { return best[fused].Seconds() * 1e3 }
					b.ReportMetric(ms(false), "plain-ms")
					b.ReportMetric(ms(true), "fused-ms")
					b.ReportMetric(ms(true)/ms(false), "ratio")
					b.ReportMetric(0, "ns/op")
				})
			})
		}
	}
}
