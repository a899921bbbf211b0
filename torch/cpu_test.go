package torch_test

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// On the CPU linear layers, with GELU too, and attention are loops around matrix products. They are their compositions,
// repeat themselves to the bit, and give the same bits with gradients and without.
func TestCPUOpsEqualTheirComposition(t *testing.T) {
	if torchtest.Device(t) != torch.CPU {
		t.Skip("for the CPU")
	}
	if !torch.Fused() {
		t.Fatal("operations are not fused")
	}
	type op func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor
	linear := func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return s.Linear(in[0], in[1], in[2]) }
	attention := func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return s.PackedAttention(in[0], 3, nil) }
	for _, c := range []struct {
		name   string
		kernel string // as the profiler names it
		f      op
		shapes [][]int
	}{
		{"a row for each thread is too few", "", linear, [][]int{{2, 24}, {40, 24}, {40}}},
		{"linear", "::Linear>", linear, [][]int{{2, 3031, 24}, {40, 24}, {40}}},
		{"linear, wide", "::Linear>", linear, [][]int{{3, 70, 130}, {1030, 130}, {1030}}},
		{"linear without bias", "::Linear>",
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return s.Linear(in[0], in[1], nil) },
			[][]int{{517, 24}, {40, 24}}},
		{"linear, GELU", "::LinearGELU>",
			func(s *torch.Scope, in []*torch.Tensor) *torch.Tensor { return s.LinearGELU(in[0], in[1], in[2]) },
			[][]int{{2, 1031, 24}, {77, 24}, {77}}},
		{"attention", "::PackedAttention>", attention, [][]int{{3, 77, 3 * 3 * 24}}},
		{"attention of a token", "::PackedAttention>", attention, [][]int{{2, 1, 3 * 3 * 8}}},
		{"attention in pieces", "::PackedAttention>", attention, [][]int{{1, 700, 3 * 3 * 16}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			torchtest.Run(t, func(s *torch.Scope) error {
				var in []*torch.Tensor
				for i, shape := range c.shapes {
					in = append(in, torchtest.Normal(s, uint64(i+1), shape[0], shape[1:]...))
				}
				w := torchtest.Normal(s, 9, 1)
				run := func() []*torch.Tensor {
					var leaves []*torch.Tensor
					for _, x := range in {
						leaf := s.Clone(x)
						leaf.SetRequiresGrad(true)
						leaves = append(leaves, leaf)
					}
					out := c.f(s, leaves)
					if shape := out.Shape(); !slices.Equal(w.Shape(), shape) {
						w = torchtest.Normal(s, 9, shape[0], shape[1:]...)
					}
					s.Backward(s.Sum(s.Mul(out, w)))
					results := []*torch.Tensor{out}
					for _, leaf := range leaves {
						results = append(results, s.Grad(leaf))
					}
					return results
				}
				torch.SetFused(false)
				want := run()
				torch.SetFused(true)
				if err := torch.StartProfile(s.Device()); err != nil {
					return err
				}
				got := run()
				timings, err := torch.StopProfile(s.Device())
				if err != nil {
					return err
				}
				if c.kernel != "" && !slices.ContainsFunc(timings, func(m torch.Timing) bool {
					return strings.HasSuffix(m.Name, c.kernel)
				}) {
					t.Errorf("%s did not compute", c.kernel)
				}
				again := run()
				for i := range want {
					if e := torchtest.Relative(s, got[i], want[i]); !(e < 1e-6) {
						t.Errorf("result %d is %.2g off its composition", i, e)
					}
					if !bytes.Equal(got[i].Bytes(), again[i].Bytes()) {
						t.Errorf("result %d is another in the second run", i)
					}
				}
				if alone := c.f(s.NoGrad(), in); !bytes.Equal(alone.Bytes(), got[0].Bytes()) {
					t.Error("without gradients the result is another")
				}
				return nil
			})
		})
	}
}

// GELU of the CPU's own loops is GELU, also where exp would overflow, and its derivative is.
func TestCPUGELU(t *testing.T) {
	if torchtest.Device(t) != torch.CPU {
		t.Skip("for the CPU")
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		const n = 1 << 12
		values := make([]float32, n)
		for i := range values {
			values[i] = (float32(i) - n/2) / 128 // -16 to 16
		}
		copy(values, []float32{-3e12, -1e4, -30, 0, 30, 1e4, 3e12})
		run := func(dtype torch.DType, f func(x *torch.Tensor) *torch.Tensor) (y, grad *torch.Tensor) {
			x := s.To(torch.From(s, values, n, 1), dtype)
			x.SetRequiresGrad(true)
			y = f(x)
			s.Backward(s.Sum(y))
			return y, s.Grad(x)
		}
		one, zero := s.Ones(torch.Float32, 1, 1), s.Zeros(torch.Float32, 1)
		y, grad := run(torch.Float32, func(x *torch.Tensor) *torch.Tensor { return s.LinearGELU(x, one, zero) })
		wantY, wantGrad := run(torch.Float64, s.GELU)
		for i, v := range values {
			if a := math.Abs(float64(torch.Data[float32](y)[i])); a > 0 && a < 1e-37 {
				t.Errorf("of %g: %g, which is subnormal or nearly so", v, a)
			}
			for _, p := range [][2]*torch.Tensor{{y, wantY}, {grad, wantGrad}} {
				got, want := float64(torch.Data[float32](p[0])[i]), torch.Data[float64](p[1])[i]
				if d := got - want; !(max(d, -d) <= 4e-7*max(1, want)) {
					t.Errorf("of %g: %g, want %g", v, got, want)
				}
			}
		}
		return nil
	})
}
