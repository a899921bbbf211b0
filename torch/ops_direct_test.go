package torch_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// want fails unless x holds exactly these values in this shape.
func want[T torch.Element](t *testing.T, x *torch.Tensor, values []T, shape ...int) {
	t.Helper()
	if got := torch.Data[T](x); !slices.Equal(got, values) || !slices.Equal(x.Shape(), shape) {
		t.Errorf("got %v %v, want %v %v", x.Shape(), got, shape, values)
	}
}

func wantBool(t *testing.T, x *torch.Tensor, values ...byte) {
	t.Helper()
	if x.DType() != torch.Bool || !bytes.Equal(x.Bytes(), values) {
		t.Errorf("got %v %v, want bool %v", x, x.Bytes(), values)
	}
}

// wantSame compares an operation with those of which it is one, in float64: the result, and the gradients of all that
// goes in.
func wantSame(t *testing.T, s *torch.Scope, in []*torch.Tensor, op, plain func(in []*torch.Tensor) *torch.Tensor) {
	t.Helper()
	run := func(dt torch.DType, f func(in []*torch.Tensor) *torch.Tensor) (all []*torch.Tensor) {
		var leaves []*torch.Tensor
		for _, x := range in {
			leaf := s.Clone(s.To(x, dt))
			leaf.SetRequiresGrad(true)
			leaves = append(leaves, leaf)
		}
		y := f(leaves)
		s.Backward(s.Sum(s.Square(y)))
		all = append(all, s.To(y, torch.Float32))
		for _, leaf := range leaves {
			all = append(all, s.To(s.Grad(leaf), torch.Float32))
		}
		return all
	}
	want := run(torch.Float64, plain)
	for i, got := range run(torch.Float32, op) {
		if e := torchtest.Relative(s, got, want[i]); !(e <= 1e-6) {
			t.Errorf("result 0 or gradient %d: relative error %.2g", i, e)
		}
	}
}

var (
	nan = float32(math.NaN())
	inf = float32(math.Inf(1))
)

// direct tests the operations that have no goldens: those whose result is plain to see, and those
// that draw random numbers.
var direct = map[string]func(t *testing.T, s *torch.Scope){
	"LtScalar": func(t *testing.T, s *torch.Scope) {
		wantBool(t, s.LtScalar(torch.From(s, []float32{1, 2, 3, nan}, 4), 2), 1, 0, 0, 0)
	},
	"GtScalar": func(t *testing.T, s *torch.Scope) {
		wantBool(t, s.GtScalar(torch.From(s, []float32{1, 2, 3, nan}, 4), 2), 0, 0, 1, 0)
	},
	"EqScalar": func(t *testing.T, s *torch.Scope) {
		wantBool(t, s.EqScalar(torch.From(s, []int64{1, 2, 3}, 3), 2), 0, 1, 0)
	},
	"IsFinite": func(t *testing.T, s *torch.Scope) {
		wantBool(t, s.IsFinite(torch.From(s, []float32{1, nan, inf, -inf, -2}, 5)), 1, 0, 0, 0, 1)
	},
	"ReLU": func(t *testing.T, s *torch.Scope) {
		want(t, s.ReLU(torch.From(s, []float32{-1, 0, 2, -inf}, 4)), []float32{0, 0, 2, 0}, 4)
	},
	"MaxPool2d": func(t *testing.T, s *torch.Scope) {
		x := torch.From(s, []float32{-1, -2, -3, -4, -5, -6, -7, -8, -9}, 1, 1, 3, 3)
		want(t, s.MaxPool2d(x, 2, 1, 0), []float32{-1, -2, -4, -5}, 1, 1, 2, 2)
		want(t, s.MaxPool2d(x, 3, 2, 1), []float32{-1, -2, -4, -5}, 1, 1, 2, 2) // not the zeros around it
	},
	"AvgPool2d": func(t *testing.T, s *torch.Scope) {
		x := torch.From(s, []float32{1, 2, 3, 4, 5, 6, 7, 8, 9}, 1, 1, 3, 3)
		want(t, s.AvgPool2d(x, 3, 1, 1), []float32{3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7}, 1, 1, 3, 3)
		want(t, s.AvgPool2d(x, 2, 1, 0), []float32{3, 4, 6, 7}, 1, 1, 2, 2)
	},
	"SingularValues": func(t *testing.T, s *torch.Scope) {
		for i, v := range torch.Data[float64](s.SingularValues(torch.From(s, []float64{0, 3, 0, -4, 0, 0}, 2, 3))) {
			if math.Abs(v-[]float64{4, 3}[i]) > 1e-14 {
				t.Errorf("singular value %d is %v", i, v)
			}
		}
	},
	"Erfinv": func(t *testing.T, s *torch.Scope) {
		for i, y := range torch.Data[float64](s.Erfinv(torch.From(s, []float64{-1 + 0x1p-31, -0.3, 0, 0.9, 1}, 5))) {
			x := []float64{-1 + 0x1p-31, -0.3, 0, 0.9, 1}[i]
			if math.Abs(math.Erf(y)-x) > 1e-15 {
				t.Errorf("erfinv(%v) = %v, whose erf is %v", x, y, math.Erf(y))
			}
		}
	},
	"All": func(t *testing.T, s *torch.Scope) {
		x := torch.From(s, []float32{1, 2}, 2)
		wantBool(t, s.All(s.GtScalar(x, 0)), 1)
		wantBool(t, s.All(s.GtScalar(x, 1)), 0)
	},
	"MaskedAttention": func(t *testing.T, s *torch.Scope) {
		q, k, v := torchtest.Normal(s, 1, 3, 2, 5, 8),
			torchtest.Normal(s, 2, 3, 2, 9, 8), torchtest.Normal(s, 3, 3, 2, 9, 8)
		lengths := []int{4, 9, 0}
		mask := s.Reshape(s.Lt(s.Arange(9, torch.Int64), torch.From(s, []int64{4, 9, 0}, 3, 1)), 3, 1, 1, 9)
		for _, p := range []*torch.Tensor{q, k, v} {
			p.SetRequiresGrad(true)
		}
		y := s.MaskedAttention(q, k, v, mask)
		s.Backward(s.Sum(s.Square(y)))
		for i, n := range lengths {
			row, gradK := s.Narrow(y, 0, i, 1), s.Narrow(s.Grad(k), 0, i, 1)
			if n > 0 {
				one := func(x *torch.Tensor, n int) *torch.Tensor { return s.Narrow(s.Narrow(x, 0, i, 1), 2, 0, n) }
				alone := s.ScaledDotProductAttention(one(q, 5), one(k, n), one(v, n))
				if e := torchtest.Relative(s, row, alone); !(e < 1e-6) {
					t.Errorf("%d keys: relative error %.2g from attention to these alone", n, e)
				}
			} else if s.MaxAll(s.Abs(row)).Item() != 0 {
				t.Error("attention to nothing is not zero")
			}
			if n < 9 && s.MaxAll(s.Abs(s.Narrow(gradK, 2, n, 9-n))).Item() != 0 {
				t.Errorf("%d keys: those behind the mask have a gradient", n)
			}
			if !(s.MaxAll(s.Abs(gradK)).Item() < 1e3) {
				t.Errorf("%d keys: the gradient is not finite", n)
			}
		}
	},
	// That of the two operations of which it is one, forward and, below, backward.
	"ResidualAdaLayerNorm": func(t *testing.T, s *torch.Scope) {
		normal := func(seed uint64, row ...int) *torch.Tensor { return torchtest.Normal(s, seed, 2, row...) }
		x, y, gate, shift, scale := normal(1, 5, 12), normal(2, 5, 12), normal(3, 12), normal(4, 12), normal(5, 12)
		for _, dt := range []torch.DType{torch.Float32, torch.BFloat16} {
			y, gate, shift, scale := s.To(y, dt), s.To(gate, dt), s.To(shift, dt), s.To(scale, dt)
			both := s.ResidualAdaLayerNorm(x, gate, y, shift, scale, 1e-6)
			sum := s.GatedAdd(x, gate, y)
			alone := s.ResidualAdaLayerNorm(sum, nil, nil, shift, scale, 1e-6)
			want := s.AdaLayerNorm(sum, shift, scale, 1e-6)
			if both[0].DType() != torch.Float32 || want.DType() != dt ||
				!(torchtest.Relative(s, both[0], sum) <= 1e-6) ||
				!bytes.Equal(alone[0].Bytes(), sum.Bytes()) || !bytes.Equal(alone[1].Bytes(), want.Bytes()) {
				t.Errorf("%v: %v, alone %v, want %v and %v", dt, both, alone, sum, want)
			}
			e := torchtest.Relative(s, s.To(both[1], torch.Float32), s.To(want, torch.Float32))
			if both[1].DType() != dt || !(e <= 1e-6 || dt == torch.BFloat16 && e < 0.01) {
				t.Errorf("%v: relative error %.2g", dt, e)
			}
		}
	},
	"LinearGELU": func(t *testing.T, s *torch.Scope) {
		x, w, b := torchtest.Normal(s, 1, 40, 8), torchtest.Normal(s, 2, 12, 8), torchtest.Normal(s, 3, 12)
		wantSame(t, s, []*torch.Tensor{x, w, b},
			func(in []*torch.Tensor) *torch.Tensor { return s.LinearGELU(in[0], in[1], in[2]) },
			func(in []*torch.Tensor) *torch.Tensor { return s.GELU(s.Linear(in[0], in[1], in[2])) })
	},
	"MLP": func(t *testing.T, s *torch.Scope) {
		in := []*torch.Tensor{torchtest.Normal(s, 1, 40, 8), torchtest.Normal(s, 2, 12, 8), torchtest.Normal(s, 3, 12),
			torchtest.Normal(s, 4, 8, 12), torchtest.Normal(s, 5, 8)}
		wantSame(t, s, in,
			func(in []*torch.Tensor) *torch.Tensor { return s.MLP(in[0], in[1], in[2], in[3], in[4]) },
			func(in []*torch.Tensor) *torch.Tensor {
				return s.Linear(s.GELU(s.Linear(in[0], in[1], in[2])), in[3], in[4])
			})
	},
	"PackedAttention": func(t *testing.T, s *torch.Scope) {
		for _, size := range [][4]int{{2, 16, 3, 8}, {2, 1, 2, 5}, {1, 77, 2, 72}} { // N, T, heads, d
			n, tokens, heads, d := size[0], size[1], size[2], size[3]
			some := s.Reshape(s.Lt(s.Arange(tokens, torch.Int64), s.Full(5, torch.Int64)), 1, 1, 1, tokens)
			for _, dtype := range []torch.DType{torch.Float32, torch.BFloat16, torch.Float64} {
				qkv := s.To(torchtest.Normal(s, 1, n, tokens, 3*heads*d), dtype)
				w := s.To(torchtest.Normal(s, 2, n, tokens, heads*d), dtype)
				for _, mask := range []*torch.Tensor{nil, some} {
					run := func(f func(qkv *torch.Tensor) *torch.Tensor) (y, grad *torch.Tensor) {
						leaf := s.Clone(qkv)
						leaf.SetRequiresGrad(true)
						y = f(leaf)
						s.Backward(s.Sum(s.Mul(y, w)))
						return y, s.Grad(leaf)
					}
					y, grad := run(func(qkv *torch.Tensor) *torch.Tensor { return s.PackedAttention(qkv, heads, mask) })
					wantY, wantGrad := run(func(qkv *torch.Tensor) *torch.Tensor {
						h := s.Unbind(s.Permute(s.Reshape(qkv, n, tokens, 3, heads, d), 2, 0, 3, 1, 4), 3, 0)
						y := s.ScaledDotProductAttention(h[0], h[1], h[2])
						if mask != nil {
							y = s.MaskedAttention(h[0], h[1], h[2], mask)
						}
						return s.Reshape(s.Transpose(y, 1, 2), n, tokens, heads*d)
					})
					if !slices.Equal(y.Shape(), wantY.Shape()) || y.DType() != dtype || grad.DType() != dtype {
						t.Fatalf("%v of shape %v, want %v of %v", y.DType(), y.Shape(), dtype, wantY.Shape())
					}
					limit := 1e-6
					if dtype == torch.BFloat16 {
						limit = 1e-2 // a rounding
					}
					for _, pair := range [][2]*torch.Tensor{{y, wantY}, {grad, wantGrad}} {
						got, want := s.To(pair[0], torch.Float64), s.To(pair[1], torch.Float64)
						if e := torchtest.Relative(s, got, want); !(e < limit) {
							t.Errorf("%v, %v, mask %v: %.2g off its composition", size, dtype, mask != nil, e)
						}
					}
				}
			}
		}
	},
	"GELUErf": func(t *testing.T, s *torch.Scope) {
		x := []float32{-30, -3, -1, -1e-4, 0, 0.5, 2, 9}
		for i, y := range torch.Data[float32](s.GELUErf(torch.From(s, x, len(x)))) {
			if v := float64(x[i]); math.Abs(float64(y)-v*(1+math.Erf(v/math.Sqrt2))/2) > 1e-6*max(1, math.Abs(v)) {
				t.Errorf("GELUErf(%v) is %v", v, y)
			}
		}
	},
	"GroupNormSiLU": func(t *testing.T, s *torch.Scope) {
		step := s.Zeros(torch.Int64, 1)
		x := s.PhiloxNormal(1, 0, step, s.Arange(2, torch.Int64), 8, 5, 3)
		channels := s.Arange(8, torch.Int64)
		w, b := s.PhiloxNormal(2, 0, step, channels), s.PhiloxNormal(3, 0, step, channels)
		for _, memory := range []func(*torch.Tensor) *torch.Tensor{s.Contiguous, s.ChannelsLast} {
			for _, dtype := range []torch.DType{torch.Float32, torch.BFloat16, torch.Float64} {
				// The weights are of Float32, the composition gets those of its type.
				x := memory(s.To(x, dtype))
				got := s.GroupNormSiLU(x, 4, w, b, 1e-6)
				want := s.SiLU(s.GroupNorm(x, 4, s.To(w, dtype), s.To(b, dtype), 1e-6))
				if got.DType() != dtype {
					t.Errorf("%v became %v", dtype, got.DType())
				}
				if s.Device() == torch.CPU && !bytes.Equal(got.Bytes(), want.Bytes()) {
					t.Errorf("%v: not the bits of the composition", dtype)
				}
				limit := 1e-5
				if dtype == torch.BFloat16 { // whose composition rounds twice
					limit = 2e-2
				}
				if r := torchtest.Relative(s, s.To(got, torch.Float64), s.To(want, torch.Float64)); !(r <= limit) {
					t.Errorf("%v: %.1e off the composition", dtype, r)
				}
			}
		}
		want(t, s.GroupNormSiLU(s.Zeros(torch.Float32, 1, 2, 1, 1), 1, nil, nil, 1e-6), []float32{0, 0}, 1, 2, 1, 1)
	},
	"MinAll": func(t *testing.T, s *torch.Scope) {
		want(t, s.MinAll(torch.From(s, []float32{3, -2, 5}, 3)), []float32{-2})
	},
	"Unbind": func(t *testing.T, s *torch.Scope) {
		x := torch.From(s, []float32{1, 2, 3, 4, 5, 6}, 2, 3)
		ts := s.Unbind(x, 3, 1)
		want(t, ts[0], []float32{1, 4}, 2)
		want(t, ts[2], []float32{3, 6}, 2)
		s.Zero_(ts[1]) // views
		want(t, x, []float32{1, 0, 3, 4, 0, 6}, 2, 3)
	},
	"Flip": func(t *testing.T, s *torch.Scope) {
		want(t, s.Flip(torch.From(s, []int32{1, 2, 3, 4, 5, 6}, 2, 3), 1), []int32{3, 2, 1, 6, 5, 4}, 2, 3)
	},
	"Contiguous": func(t *testing.T, s *torch.Scope) {
		x := torch.From(s, []float32{1, 2, 3, 4, 5, 6}, 2, 3)
		want(t, s.Contiguous(s.Transpose(x, 0, 1)), []float32{1, 4, 2, 5, 3, 6}, 3, 2)
		s.Zero_(s.Contiguous(x)) // no copy
		want(t, x, make([]float32, 6), 2, 3)
	},
	"ChannelsLast": func(t *testing.T, s *torch.Scope) {
		x := s.ChannelsLast(s.Reshape(s.Arange(12, torch.Float32), 1, 3, 2, 2))
		want(t, x, []float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 1, 3, 2, 2)
		// In NHWC order the first two pixels of all channels are adjacent: a flat view exists.
		flat := s.Reshape(s.Permute(x, 0, 2, 3, 1), 12)
		s.Zero_(flat)
		want(t, x, make([]float32, 12), 1, 3, 2, 2)
	},
	"Clone": func(t *testing.T, s *torch.Scope) {
		x := torch.From(s, []float32{1, 2}, 2)
		y := s.Clone(x)
		s.Zero_(x)
		want(t, y, []float32{1, 2}, 2)
	},
	"Detach": func(t *testing.T, s *torch.Scope) {
		x := torch.From(s, []float32{1, 2}, 2)
		x.SetRequiresGrad(true)
		if y := s.MulScalar(x, 2); !y.RequiresGrad() || s.Detach(y).RequiresGrad() {
			t.Error("Detach did not leave the graph")
		}
	},
	"Empty": func(t *testing.T, s *torch.Scope) {
		if x := s.Empty(torch.BFloat16, 2, 3); !slices.Equal(x.Shape(), []int{2, 3}) || x.DType() != torch.BFloat16 ||
			x.Device() != s.Device() {
			t.Errorf("got %v", x)
		}
		if x := s.Empty(torch.Float32, 0, 3); x.NumElements() != 0 || len(torch.Data[float32](x)) != 0 {
			t.Errorf("got %v", x)
		}
	},
	"Zeros": func(t *testing.T, s *torch.Scope) {
		want(t, s.Zeros(torch.Int64, 2, 1), []int64{0, 0}, 2, 1)
	},
	"Ones": func(t *testing.T, s *torch.Scope) {
		want(t, s.Ones(torch.Uint8, 3), []uint8{1, 1, 1}, 3)
	},
	"Full": func(t *testing.T, s *torch.Scope) {
		want(t, s.Full(0.1, torch.Float64, 1, 2), []float64{0.1, 0.1}, 1, 2)
		want(t, s.Full(3, torch.Int32), []int32{3})
	},
	"Copy_": func(t *testing.T, s *torch.Scope) {
		x := s.Zeros(torch.Float32, 2, 3)
		s.Copy_(x, torch.From(s, []int64{1, 2, 3}, 3)) // converted and broadcast
		want(t, x, []float32{1, 2, 3, 1, 2, 3}, 2, 3)
	},
	"Zero_": func(t *testing.T, s *torch.Scope) {
		x := s.Ones(torch.Float32, 2)
		s.Zero_(x)
		want(t, x, []float32{0, 0}, 2)
	},
	"Fill_": func(t *testing.T, s *torch.Scope) {
		x := s.Zeros(torch.Float32, 2)
		s.Fill_(x, -1.5)
		want(t, x, []float32{-1.5, -1.5}, 2)
	},
	// The draws of PyTorch 2.11 on the CPU with manual_seed(7).
	"Randn": func(t *testing.T, s *torch.Scope) {
		draws(t, s, func(s *torch.Scope, g *torch.Generator, dims ...int) *torch.Tensor { return s.Randn(g, dims...) },
			[]float32{-0.1467950940132141, 0.7861412763595581, 0.9468216300010681, -1.1143440008163452}, 0, 1)
	},
	"Uniform_": func(t *testing.T, s *torch.Scope) {
		draws(t, s, func(s *torch.Scope, g *torch.Generator, dims ...int) *torch.Tensor {
			x := s.Empty(torch.Float32, dims...)
			s.Uniform_(x, g, -2, 3)
			return x
		}, []float32{0.6746127009391785, -1.0059840679168701, 1.2960584163665771, 1.2844513654708862}, 0.5,
			5/math.Sqrt(12))
	},
	"Normal_": func(t *testing.T, s *torch.Scope) {
		draws(t, s, func(s *torch.Scope, g *torch.Generator, dims ...int) *torch.Tensor {
			x := s.Empty(torch.Float32, dims...)
			s.Normal_(x, g, 1, 0.5)
			return x
		}, []float32{0.9266024231910706, 1.3930706977844238, 1.4734108448028564, 0.4428279995918274}, 1, 0.5)
	},
}

// draws checks the first draws of a generator on the CPU, and mean and deviation of many.
func draws(t *testing.T, s *torch.Scope, draw func(*torch.Scope, *torch.Generator, ...int) *torch.Tensor,
	first []float32, mean, std float64) {
	t.Helper()
	generator := func() *torch.Generator {
		g, err := torch.NewGenerator(s.Device(), 7)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	if s.Device() == torch.CPU {
		x := draw(s, generator(), len(first))
		for i, v := range torch.Data[float32](x) {
			if math.Abs(float64(v-first[i])) > 1e-6 { // logarithms differ in the last bit
				t.Errorf("draw %d is %v, want %v", i, v, first[i])
			}
		}
	}
	const n = 1 << 18
	g := generator()
	x, next := draw(s, g, n), draw(s, g, n)
	if !bytes.Equal(x.Bytes(), draw(s, generator(), n).Bytes()) {
		t.Error("a seed gives other draws the second time")
	}
	if bytes.Equal(x.Bytes(), next.Bytes()) {
		t.Error("the second draw repeats the first")
	}
	// Six standard errors.
	limit := 6 * std / math.Sqrt(n)
	if m := s.Mean(x).Item(); math.Abs(m-mean) > limit {
		t.Errorf("mean %v, want %v +- %v", m, mean, limit)
	}
	if d := s.Std(x).Item(); math.Abs(d-std) > limit {
		t.Errorf("standard deviation %v, want %v +- %v", d, std, limit)
	}
}

// The gradients of attention are put together by the kernel of a GPU.
func TestPackedAttentionByKernels(t *testing.T) {
	torchtest.Emulate(t)
	torchtest.Run(t, func(s *torch.Scope) error { direct["PackedAttention"](t, s); return nil })
}

func TestOpsDirectly(t *testing.T) {
	for name, f := range direct {
		t.Run(name, func(t *testing.T) {
			torchtest.Run(t, func(s *torch.Scope) error { f(t, s); return nil })
		})
	}
}

// A fused operation equals its plain composition, forward and backward: at the sizes of DiT-S, for one
// sample, which several threads share, and for rows that fill no vector register.
func TestFusedOpsEqualTheirComposition(t *testing.T) {
	for _, size := range [][3]int{{3, 64, 384}, {1, 64, 384}, {2, 5, 7}} {
		fusedEqualsComposition(t, size[0], size[1], size[2])
	}
}

func plainAdaLayerNorm(s *torch.Scope, x, shift, scale *torch.Tensor) *torch.Tensor {
	x = s.Subtract(x, s.MeanDims(x, true, -1))
	x = s.Mul(x, s.PowScalar(s.AddScalar(s.MeanDims(s.Square(x), true, -1), 1e-6), -0.5))
	return s.Add(s.Mul(x, s.AddScalar(s.Unsqueeze(scale, 1), 1)), s.Unsqueeze(shift, 1))
}

func fusedEqualsComposition(t *testing.T, n, tokens, d int) {
	for _, c := range []struct {
		name         string
		shapes       [][]int
		fused, plain func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor
	}{
		{"AdaLayerNorm", [][]int{{n, tokens, d}, {n, d}, {n, d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.AdaLayerNorm(in[0], in[1], in[2], 1e-6)
			},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return plainAdaLayerNorm(s, in[0], in[1], in[2])
			}},
		{"ResidualAdaLayerNorm", [][]int{{n, tokens, d}, {n, d}, {n, d}, {n, d}, {n, tokens, d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				both := s.ResidualAdaLayerNorm(in[0], in[3], in[4], in[1], in[2], 1e-6)
				return s.Add(s.Square(both[0]), both[1])
			},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				x := s.Add(in[0], s.Mul(s.Unsqueeze(in[3], 1), in[4]))
				return s.Add(s.Square(x), plainAdaLayerNorm(s, x, in[1], in[2]))
			}},
		{"ResidualAdaLayerNorm without gate", [][]int{{n, tokens, d}, {n, d}, {n, d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				both := s.ResidualAdaLayerNorm(in[0], nil, nil, in[1], in[2], 1e-6)
				return s.Add(s.Square(both[0]), both[1])
			},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.Add(s.Square(in[0]), plainAdaLayerNorm(s, in[0], in[1], in[2]))
			}},
		{"GatedAdd", [][]int{{n, tokens, d}, {n, d}, {n, tokens, d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return s.GatedAdd(in[0], in[1], in[2]) },
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.Add(in[0], s.Mul(s.Unsqueeze(in[1], 1), in[2]))
			}},
		{"LinearGELU", [][]int{{n, tokens, 8}, {d, 8}, {d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return s.LinearGELU(in[0], in[1], in[2]) },
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.GELU(s.Linear(in[0], in[1], in[2]))
			}},
		{"MLP", [][]int{{n, tokens, d}, {16, d}, {16}, {d, 16}, {d}},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.MLP(in[0], in[1], in[2], in[3], in[4])
			},
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor {
				return s.Linear(s.GELU(s.Linear(in[0], in[1], in[2])), in[3], in[4])
			}},
	} {
		t.Run(fmt.Sprintf("%s %d %d %d", c.name, n, tokens, d), func(t *testing.T) {
			torchtest.Run(t, func(s *torch.Scope) error {
				g, err := torch.NewGenerator(s.Device(), 1)
				if err != nil {
					return err
				}
				var in []*torch.Tensor
				for _, shape := range c.shapes {
					in = append(in, s.Randn(g, shape...))
				}
				w := s.Randn(g, n, tokens, d)
				run := func(f func(*torch.Scope, []*torch.Tensor) *torch.Tensor) (*torch.Tensor, []*torch.Tensor) {
					var leaves, grads []*torch.Tensor
					for _, x := range in {
						leaf := s.Clone(x)
						leaf.SetRequiresGrad(true)
						leaves = append(leaves, leaf)
					}
					out := f(s, leaves)
					s.Backward(s.Sum(s.Mul(out, w)))
					for _, leaf := range leaves {
						grads = append(grads, s.Grad(leaf))
					}
					return out, grads
				}
				out, grads := run(c.fused)
				plain, plainGrads := run(c.plain)
				if e := torchtest.Relative(s, out, plain); !(e < tolerance) {
					t.Errorf("output: relative error %.2g", e)
				}
				for i := range grads {
					if e := torchtest.Relative(s, grads[i], plainGrads[i]); !(e < tolerance) {
						t.Errorf("gradient of input %d: relative error %.2g", i, e)
					}
				}
				return nil
			})
		})
	}
}
