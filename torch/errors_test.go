package torch_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Whatever is wrong with an operation comes back as an error of one line that names the operation
// and what it was given, and nothing is left behind.
func TestOperationErrors(t *testing.T) {
	ones := func(s *torch.Scope, dims ...int) *torch.Tensor { return s.Ones(torch.Float32, dims...) }
	fillWith := func(ids *torch.Tensor, id byte) {
		err := ids.Fill(func(p []byte, _ int64) error {
			for i := range p {
				p[i] = 0
				if i%8 == 0 {
					p[i] = id
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		op   string
		kind error
		text []string
		f    func(s *torch.Scope)
	}{
		{"Add", torch.ErrShape, []string{"[2 3]", "[2 4]"},
			func(s *torch.Scope) { s.Add(ones(s, 2, 3), ones(s, 2, 4)) }},
		{"MatMul", torch.ErrShape, []string{"[2 3]", "2x3"},
			func(s *torch.Scope) { s.MatMul(ones(s, 2, 3), ones(s, 2, 3)) }},
		{"Linear", torch.ErrShape, []string{"[2 3]", "[4 5]"},
			func(s *torch.Scope) { s.Linear(ones(s, 2, 3), ones(s, 4, 5), nil) }},
		{"LinearGELU", torch.ErrShape, []string{"x [..., in]", "[2 3]", "[4 5]"},
			func(s *torch.Scope) { s.LinearGELU(ones(s, 2, 3), ones(s, 4, 5), ones(s, 4)) }},
		{"MLP", torch.ErrShape, []string{"x [..., in]", "[2 3]", "[5 4]"}, func(s *torch.Scope) {
			s.MLP(ones(s, 2, 3), ones(s, 3, 3), ones(s, 3), ones(s, 5, 4), ones(s, 5))
		}},
		{"Conv2d", nil, []string{"[1 3 4 4]", "[2 4 3 3]"},
			func(s *torch.Scope) { s.Conv2d(ones(s, 1, 3, 4, 4), ones(s, 2, 4, 3, 3), nil, 1, 0) }},
		{"AdaLayerNorm", torch.ErrShape, []string{"[N, T, D]", "[2 3]"},
			func(s *torch.Scope) { s.AdaLayerNorm(ones(s, 2, 3), ones(s, 2, 3), ones(s, 2, 3), 1e-6) }},
		{"ResidualAdaLayerNorm", torch.ErrShape, []string{"[N, T, D]", "[2 4 3]"}, func(s *torch.Scope) {
			x := ones(s, 2, 4, 3)
			s.ResidualAdaLayerNorm(x, ones(s, 3), x, ones(s, 2, 3), ones(s, 2, 3), 1e-6)
		}},
		{"ResidualAdaLayerNorm", nil, []string{"a gate needs y"}, func(s *torch.Scope) {
			x := ones(s, 2, 4, 3)
			s.ResidualAdaLayerNorm(x, ones(s, 2, 3), nil, ones(s, 2, 3), ones(s, 2, 3), 1e-6)
		}},
		{"GatedAdd", torch.ErrShape, []string{"[N, T, D]", "[2 4 3]"},
			func(s *torch.Scope) { s.GatedAdd(ones(s, 2, 4, 3), ones(s, 3), ones(s, 2, 4, 3)) }},
		{"PackedAttention", torch.ErrShape, []string{"[N, T, 3 heads d] for 2 heads", "[1 4 9]"},
			func(s *torch.Scope) { s.PackedAttention(ones(s, 1, 4, 9), 2, nil) }},
		{"Reshape", torch.ErrShape, []string{"[2 3]"}, func(s *torch.Scope) { s.Reshape(ones(s, 2, 3), 4, 2) }},
		{"Chunk", nil, []string{"[2 3]"}, func(s *torch.Scope) { s.Chunk(ones(s, 2, 3), 5, 1) }},
		{"Chunk", nil, []string{"[2 3]"}, func(s *torch.Scope) { s.Chunk(ones(s, 2, 3), 0, 1) }},
		{"Cat", torch.ErrShape, []string{"[2 3]", "[3 4]"},
			func(s *torch.Scope) { s.Cat([]*torch.Tensor{ones(s, 2, 3), ones(s, 3, 4)}, 0) }},
		{"Cat", nil, []string{"non-empty list"}, func(s *torch.Scope) { s.Cat(nil, 0) }},
		{"Select", nil, []string{"[2 3]"}, func(s *torch.Scope) { s.Select(ones(s, 2, 3), 1, 3) }},
		{"Softmax", nil, []string{"[2 3]"}, func(s *torch.Scope) { s.Softmax(ones(s, 2, 3), 2) }},
		{"Embedding", nil, []string{"index 4 is out of range: want 0 to 3", "[4 2]", "[3]"}, func(s *torch.Scope) {
			s.Embedding(ones(s, 4, 2), torch.From(s, []int64{0, 4, 1}, 3))
		}},
		{"Embedding", nil, []string{"index -1 is out of range: want 0 to 3"}, func(s *torch.Scope) {
			s.Embedding(ones(s, 4, 2), torch.From(s, []int64{0, -1, 1}, 3))
		}},
		{"Embedding", nil, []string{"index 5 is out of range"}, func(s *torch.Scope) { // which nobody saw on the host
			s.Embedding(ones(s, 4, 2), s.Add(torch.From(s, []int64{1, 2}, 2), torch.From(s, []int64{0, 3}, 2)))
		}},
		{"Embedding", nil, []string{"index 7 is out of range"}, func(s *torch.Scope) { // which it was not at first
			ids := torch.From(s, []int64{1, 2}, 2)
			s.Fill_(s.Narrow(ids, 0, 1, 1), 7)
			s.Embedding(ones(s, 4, 2), ids)
		}},
		{"Embedding", nil, []string{"index 8 is out of range"}, func(s *torch.Scope) { // nor here, in all its memory
			ids := torch.From(s, []int64{1, 2}, 2)
			fillWith(ids, 8)
			s.Embedding(ones(s, 4, 2), ids)
		}},
		{"Embedding", nil, []string{"index 9 is out of range"}, func(s *torch.Scope) { // nor in a part of it
			ids := torch.From(s, []int64{1, 2}, 2)
			fillWith(s.Narrow(ids, 0, 1, 1), 9)
			s.Embedding(ones(s, 4, 2), ids)
		}},
		{"Embedding", nil, []string{"index 0 is out of range: want 0 to -1"}, func(s *torch.Scope) {
			s.Embedding(ones(s, 0, 2), torch.From(s, []int64{0}, 1))
		}},
		{"IndexSelect", nil, []string{"index 3 is out of range: want 0 to 2", "[2 3]"}, func(s *torch.Scope) {
			s.IndexSelect(ones(s, 2, 3), 1, torch.From(s, []int64{3}, 1))
		}},
		{"IndexSelect", nil, []string{"Dimension out of range"}, func(s *torch.Scope) {
			s.IndexSelect(ones(s, 2, 3), 2, torch.From(s, []int64{0}, 1))
		}},
		{"Embedding", nil, []string{"[4 2]", "Long"}, func(s *torch.Scope) { s.Embedding(ones(s, 4, 2), ones(s, 1)) }},
		{"Backward", nil, []string{"scalar", "[2]"}, func(s *torch.Scope) {
			x := ones(s, 2)
			x.SetRequiresGrad(true)
			s.Backward(s.Neg(x))
		}},
		{"Backward", nil, []string{"does not require grad"}, func(s *torch.Scope) { s.Backward(s.Sum(ones(s, 2))) }},
		{"SetRequiresGrad", nil, []string{"floating point", "[2]"},
			func(s *torch.Scope) { s.Zeros(torch.Int64, 2).SetRequiresGrad(true) }},
		{"Zero_", nil, []string{"leaf", "[2]"}, func(s *torch.Scope) {
			x := ones(s, 2)
			x.SetRequiresGrad(true)
			s.Zero_(x)
		}},

		{"Add", nil, []string{"nil tensor"}, func(s *torch.Scope) { s.Add(nil, ones(s, 1)) }},
		{"Cat", nil, []string{"nil tensor"}, func(s *torch.Scope) { s.Cat([]*torch.Tensor{ones(s, 1), nil}, 0) }},
		{"Backward", nil, []string{"nil tensor"}, func(s *torch.Scope) { s.Backward(nil) }},
		{"Data", nil, []string{"nil tensor"}, func(*torch.Scope) { torch.Data[float32](nil) }},
		{"Item", nil, []string{"nil tensor"}, func(*torch.Scope) { (*torch.Tensor)(nil).Item() }},
		{"Persist", nil, []string{"nil tensor"}, func(*torch.Scope) { torch.Persist(nil) }},
		{"Randn", nil, []string{"nil generator"}, func(s *torch.Scope) { s.Randn(nil, 2) }},

		{"Zeros", nil, []string{"dtype number 99"}, func(s *torch.Scope) { s.Zeros(torch.DType(99), 2) }},
		{"To", nil, []string{"dtype number -1", "[2]"}, func(s *torch.Scope) { s.To(ones(s, 2), torch.DType(-1)) }},
		{"Zeros", nil, []string{"negative"}, func(s *torch.Scope) { s.Zeros(torch.Float32, -2) }},
		{"dims", nil, []string{"9 dimensions, at most 8"},
			func(s *torch.Scope) { s.Zeros(torch.Float32, 1, 1, 1, 1, 1, 1, 1, 1, 1) }},
		{"Unsqueeze", nil, []string{"rank 9"},
			func(s *torch.Scope) { s.Unsqueeze(ones(s, 1, 1, 1, 1, 1, 1, 1, 1), 0) }},

		{"From", nil, []string{"[2, 2]", "12 bytes"}, func(s *torch.Scope) { torch.From(s, []float32{1, 2, 3}, 2, 2) }},
		{"FromBytes", nil, []string{"[3]", "4 bytes"},
			func(s *torch.Scope) { s.FromBytes(torch.Float16, make([]byte, 4), 3) }},
		{"From", nil, []string{"4611686018427387904"},
			func(s *torch.Scope) { torch.From(s, []float32{1, 2, 3}, 1<<62, 4) }},
		{"From", nil, []string{"[-1]"}, func(s *torch.Scope) { torch.From(s, []float32{1}, -1) }},
		{"CopyFromBytes", nil, []string{"[2]", "got 7"},
			func(s *torch.Scope) { ones(s, 2).CopyFromBytes(make([]byte, 7)) }},
		{"Data", nil, []string{"float32", "float64"}, func(s *torch.Scope) { torch.Data[float64](ones(s, 2)) }},
		{"Data", nil, []string{"bool", "uint8"}, func(s *torch.Scope) { torch.Data[uint8](s.Zeros(torch.Bool, 2)) }},
		{"Item", nil, []string{"[2]"}, func(s *torch.Scope) { ones(s, 2).Item() }},
		{"Item", nil, []string{"bfloat16"}, func(s *torch.Scope) { s.Zeros(torch.BFloat16, 1).Item() }},

		{"Zeros", torch.ErrOutOfMemory, nil, func(s *torch.Scope) { s.Zeros(torch.Float32, 1<<50) }},
		{"Expand", nil, nil, func(s *torch.Scope) { s.Expand(ones(s, 2), 1<<62, 1<<62, 2) }},
		{"Clone", torch.ErrOutOfMemory, nil,
			func(s *torch.Scope) { s.Clone(s.Contiguous(s.Expand(ones(s, 1), 1<<50))) }},
	} {
		t.Run(c.op, func(t *testing.T) {
			before := torch.Live()
			e := failure(t, c.f)
			wantLive(t, before, "after the error")
			text := e.Error()
			if op := c.op; e.Op != op && !(op == "Clone" && e.Op == "Contiguous") {
				t.Errorf("operation %q, want %q (%s)", e.Op, op, text)
			}
			if !strings.HasPrefix(text, "torch: "+e.Op+": ") || strings.ContainsAny(text, "\n\r") || len(text) > 400 {
				t.Errorf("not one short line: %q", text)
			}
			for _, part := range c.text {
				if !strings.Contains(text, part) {
					t.Errorf("%q does not say %q", text, part)
				}
			}
			if c.kind != nil && !errors.Is(e, c.kind) {
				t.Errorf("%q is not %q", text, c.kind)
			}
			if errors.Is(e, torch.ErrOutOfMemory) != (c.kind == torch.ErrOutOfMemory) {
				t.Errorf("%q: out of memory is %v", text, c.kind != torch.ErrOutOfMemory)
			}
		})
	}
}

// The library goes on after any error, and NaN is a value like any other.
func TestWorkGoesOnAfterErrors(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		x := torch.From(s, []float32{1, nan, -inf}, 3)
		for range 50 {
			if err := s.Try(func(s *torch.Scope) error { s.Add(x, s.Ones(torch.Float32, 2)); return nil }); err == nil {
				t.Fatal("no error")
			}
		}
		got := torch.Data[float32](s.AddScalar(x, 1))
		if got[0] != 2 || got[1] == got[1] || !math.IsInf(float64(got[2]), -1) {
			t.Errorf("got %v", got)
		}
		if v := s.Sum(x).Item(); !math.IsNaN(v) {
			t.Errorf("the sum with a NaN is %v", v)
		}
		x.SetRequiresGrad(true)
		s.Backward(s.Sum(s.Square(x)))
		if g := torch.Data[float32](s.Grad(x)); g[0] != 2 || g[1] == g[1] {
			t.Errorf("gradient %v", g)
		}
		return nil
	})
}

func TestBackwardAccumulatesUntilCleared(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		x := torch.From(s, []float32{1, 2}, 2)
		x.SetRequiresGrad(true)
		if s.Grad(x) != nil {
			t.Error("a gradient before Backward")
		}
		s.Backward(s.Sum(s.Square(x)))
		s.Backward(s.Sum(s.Square(x)))
		want(t, s.Grad(x), []float32{4, 8}, 2)
		x.ClearGrad()
		if s.Grad(x) != nil {
			t.Error("a gradient after ClearGrad")
		}
		return nil
	})
}
