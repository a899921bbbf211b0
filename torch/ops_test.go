package torch_test

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Goldens in float32 are up to 7e-7 from the same case in float64, and sums in another order (of
// other thread counts, or a GPU) stay within a few times that.
const tolerance = 3e-6

// args are the constants of a golden case.
type args struct {
	Value, Lo, Hi, Weight, Eps                  float64
	Stride, Padding, Dim, Groups, Start, Length int
	Index, Count, A, B                          int
	Dims, Pad                                   []int
	Keep                                        bool
	DType                                       string
}

// A golden says which operation of ops.table a kind of golden case tests, and how it is called.
type golden struct {
	op   string
	call func(s *torch.Scope, in []*torch.Tensor, a args) []*torch.Tensor
}

func op(name string, f func(s *torch.Scope, in []*torch.Tensor, a args) *torch.Tensor) golden {
	return golden{name, func(s *torch.Scope, in []*torch.Tensor, a args) []*torch.Tensor {
		return []*torch.Tensor{f(s, in, a)}
	}}
}

func unary(name string, f func(*torch.Scope, *torch.Tensor) *torch.Tensor) golden {
	return op(name, func(s *torch.Scope, in []*torch.Tensor, _ args) *torch.Tensor { return f(s, in[0]) })
}

func binary(name string, f func(_ *torch.Scope, a, b *torch.Tensor) *torch.Tensor) golden {
	return op(name, func(s *torch.Scope, in []*torch.Tensor, _ args) *torch.Tensor { return f(s, in[0], in[1]) })
}

func ternary(name string, f func(_ *torch.Scope, a, b, c *torch.Tensor) *torch.Tensor) golden {
	return op(name, func(s *torch.Scope, in []*torch.Tensor, _ args) *torch.Tensor { return f(s, in[0], in[1], in[2]) })
}

// at returns input i, nil where the case leaves it out.
func at(in []*torch.Tensor, i int) *torch.Tensor {
	if i < len(in) {
		return in[i]
	}
	return nil
}

var dtypes = map[string]torch.DType{
	"float32": torch.Float32, "float64": torch.Float64, "float16": torch.Float16, "bfloat16": torch.BFloat16,
	"int64": torch.Int64,
}

type (
	scope  = torch.Scope
	tensor = torch.Tensor
)

var goldens = map[string]golden{
	"add":                binary("Add", (*scope).Add),
	"subtract":           binary("Subtract", (*scope).Subtract),
	"mul":                binary("Mul", (*scope).Mul),
	"div":                binary("Div", (*scope).Div),
	"maximum":            binary("Maximum", (*scope).Maximum),
	"lt":                 binary("Lt", (*scope).Lt),
	"matmul":             binary("MatMul", (*scope).MatMul),
	"embedding":          binary("Embedding", (*scope).Embedding),
	"mse_loss":           binary("MSELoss", (*scope).MSELoss),
	"addcmul":            ternary("Addcmul", (*scope).Addcmul),
	"where":              ternary("Where", (*scope).Where),
	"sdpa":               ternary("ScaledDotProductAttention", (*scope).ScaledDotProductAttention),
	"gated_add":          ternary("GatedAdd", (*scope).GatedAdd),
	"neg":                unary("Neg", (*scope).Neg),
	"exp":                unary("Exp", (*scope).Exp),
	"log":                unary("Log", (*scope).Log),
	"square":             unary("Square", (*scope).Square),
	"abs":                unary("Abs", (*scope).Abs),
	"sin":                unary("Sin", (*scope).Sin),
	"cos":                unary("Cos", (*scope).Cos),
	"tanh":               unary("Tanh", (*scope).Tanh),
	"sigmoid":            unary("Sigmoid", (*scope).Sigmoid),
	"silu":               unary("SiLU", (*scope).SiLU),
	"gelu":               unary("GELU", (*scope).GELU),
	"sum":                unary("Sum", (*scope).Sum),
	"mean":               unary("Mean", (*scope).Mean),
	"std":                unary("Std", (*scope).Std),
	"norm":               unary("Norm", (*scope).Norm),
	"max_all":            unary("MaxAll", (*scope).MaxAll),
	"upsample_nearest2x": unary("UpsampleNearest2x", (*scope).UpsampleNearest2x),

	"add_scalar":  op("AddScalar", func(s *scope, in []*tensor, a args) *tensor { return s.AddScalar(in[0], a.Value) }),
	"mul_scalar":  op("MulScalar", func(s *scope, in []*tensor, a args) *tensor { return s.MulScalar(in[0], a.Value) }),
	"pow_scalar":  op("PowScalar", func(s *scope, in []*tensor, a args) *tensor { return s.PowScalar(in[0], a.Value) }),
	"clamp":       op("Clamp", func(s *scope, in []*tensor, a args) *tensor { return s.Clamp(in[0], a.Lo, a.Hi) }),
	"lerp_scalar": op("Lerp", func(s *scope, in []*tensor, a args) *tensor { return s.Lerp(in[0], in[1], a.Weight) }),
	// The binding has no lerp by a tensor: this is how it is spelled.
	"lerp": op("Addcmul", func(s *scope, in []*tensor, _ args) *tensor {
		return s.Addcmul(in[0], in[2], s.Subtract(in[1], in[0]))
	}),

	"linear": op("Linear", func(s *scope, in []*tensor, _ args) *tensor { return s.Linear(in[0], in[1], at(in, 2)) }),
	"conv2d": op("Conv2d", func(s *scope, in []*tensor, a args) *tensor {
		return s.Conv2d(in[0], in[1], at(in, 2), a.Stride, a.Padding)
	}),
	"softmax": op("Softmax", func(s *scope, in []*tensor, a args) *tensor { return s.Softmax(in[0], a.Dim) }),
	"layer_norm": op("LayerNorm", func(s *scope, in []*tensor, a args) *tensor {
		return s.LayerNorm(in[0], a.Dims, at(in, 1), at(in, 2), a.Eps)
	}),
	"group_norm": op("GroupNorm", func(s *scope, in []*tensor, a args) *tensor {
		return s.GroupNorm(in[0], a.Groups, at(in, 1), at(in, 2), a.Eps)
	}),
	"ada_layer_norm": op("AdaLayerNorm", func(s *scope, in []*tensor, a args) *tensor {
		return s.AdaLayerNorm(in[0], in[1], in[2], a.Eps)
	}),

	"index_select": op("IndexSelect",
		func(s *scope, in []*tensor, a args) *tensor { return s.IndexSelect(in[0], a.Dim, in[1]) }),
	"pad":     op("Pad", func(s *scope, in []*tensor, a args) *tensor { return s.Pad(in[0], a.Pad) }),
	"reshape": op("Reshape", func(s *scope, in []*tensor, a args) *tensor { return s.Reshape(in[0], a.Dims...) }),
	"permute": op("Permute", func(s *scope, in []*tensor, a args) *tensor { return s.Permute(in[0], a.Dims...) }),
	"transpose": op("Transpose",
		func(s *scope, in []*tensor, a args) *tensor { return s.Transpose(in[0], a.A, a.B) }),
	"unsqueeze": op("Unsqueeze", func(s *scope, in []*tensor, a args) *tensor { return s.Unsqueeze(in[0], a.Dim) }),
	"expand":    op("Expand", func(s *scope, in []*tensor, a args) *tensor { return s.Expand(in[0], a.Dims...) }),
	"narrow": op("Narrow",
		func(s *scope, in []*tensor, a args) *tensor { return s.Narrow(in[0], a.Dim, a.Start, a.Length) }),
	"select": op("Select",
		func(s *scope, in []*tensor, a args) *tensor { return s.Select(in[0], a.Dim, a.Index) }),
	"chunk": {"Chunk", func(s *scope, in []*tensor, a args) []*tensor { return s.Chunk(in[0], a.Count, a.Dim) }},
	"cat":   op("Cat", func(s *scope, in []*tensor, a args) *tensor { return s.Cat(in, a.Dim) }),
	"stack": op("Stack", func(s *scope, in []*tensor, a args) *tensor { return s.Stack(in, a.Dim) }),

	"sum_dims": op("SumDims",
		func(s *scope, in []*tensor, a args) *tensor { return s.SumDims(in[0], a.Keep, a.Dims...) }),
	"mean_dims": op("MeanDims",
		func(s *scope, in []*tensor, a args) *tensor { return s.MeanDims(in[0], a.Keep, a.Dims...) }),
	"arange": op("Arange",
		func(s *scope, _ []*tensor, a args) *tensor { return s.Arange(a.Count, dtypes[a.DType]) }),
	"to": op("To", func(s *scope, in []*tensor, a args) *tensor { return s.To(in[0], dtypes[a.DType]) }),
}

// views are the operations whose results share memory with a parameter and, as in PyTorch, say that
// they require a gradient even where nothing was recorded.
var views = map[string]bool{
	"Reshape": true, "Permute": true, "Transpose": true, "Unsqueeze": true,
	"Expand": true, "Narrow": true, "Select": true, "Chunk": true,
}

type goldenCase struct {
	Name, Op string
	Args     args
	In, Out  int
	Grad     []int
}

func goldenCases(t *testing.T) (*torchtest.Goldens, []goldenCase) {
	g := torchtest.Open(t, "testdata/ops.safetensors")
	var cases []goldenCase
	g.Config("cases", &cases)
	return g, cases
}

func TestOpsEqualPyTorch(t *testing.T) {
	g, cases := goldenCases(t)
	if len(cases) < 90 {
		t.Fatalf("%d golden cases, want at least 90", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			torchtest.Run(t, func(s *torch.Scope) error {
				checkGolden(t, s, g, c)
				return nil
			})
		})
	}
}

func checkGolden(t *testing.T, s *torch.Scope, g *torchtest.Goldens, c goldenCase) {
	f, ok := goldens[c.Op]
	if !ok {
		t.Fatalf("golden of an operation %q that no test calls", c.Op)
	}
	name := func(kind string, i int) string { return c.Name + "." + kind + "." + string(rune('0'+i)) }
	in := make([]*torch.Tensor, c.In)
	for i := range in {
		in[i] = g.Tensor(s, name("in", i))
	}
	for _, i := range c.Grad {
		in[i].SetRequiresGrad(true)
	}
	if !views[f.op] {
		for i, out := range f.call(s.NoGrad(), in, c.Args) {
			if out.RequiresGrad() {
				t.Errorf("output %d requires a gradient in a NoGrad scope", i)
			}
		}
	}
	outs := f.call(s, in, c.Args)
	if len(outs) != c.Out {
		t.Fatalf("%d outputs, want %d", len(outs), c.Out)
	}
	var loss *torch.Tensor
	for i, out := range outs {
		want := g.Tensor(s, name("out", i))
		if out.DType() != want.DType() {
			t.Fatalf("output %d is %v, want %v", i, out, want)
		}
		if out.DType() != torch.Float32 { // integers, and casts, whose rounding is defined
			if !slices.Equal(out.Shape(), want.Shape()) || !bytes.Equal(out.Bytes(), want.Bytes()) {
				t.Errorf("output %d differs", i)
			}
			continue
		}
		if e := torchtest.Relative(s, out, want); !(e < tolerance) {
			t.Errorf("output %d (%v): relative error %.2g", i, out, e)
		}
		if len(c.Grad) > 0 {
			part := s.Sum(s.Mul(out, g.Tensor(s, name("w", i))))
			if loss != nil {
				part = s.Add(loss, part)
			}
			loss = part
		}
	}
	if loss == nil {
		return
	}
	s.Backward(loss)
	for _, i := range c.Grad {
		if e := torchtest.Relative(s, s.Grad(in[i]), g.Tensor(s, name("grad", i))); !(e < tolerance) {
			t.Errorf("gradient of input %d: relative error %.2g", i, e)
		}
	}
}

// Every operation of the table has a golden case or a direct test.
func TestEveryOperationIsTested(t *testing.T) {
	tested := map[string]bool{}
	_, cases := goldenCases(t)
	for _, c := range cases {
		tested[goldens[c.Op].op] = true
	}
	for name := range direct {
		if tested[name] {
			t.Errorf("%s has goldens and a direct test: one will do", name)
		}
		tested[name] = true
	}
	table, err := os.ReadFile("ops.table")
	if err != nil {
		t.Fatal(err)
	}
	listed := regexp.MustCompile(`(?m)^(\w+)\(`).FindAllSubmatch(table, -1)
	if len(listed) < 80 {
		t.Fatalf("read %d operations from ops.table, want at least 80", len(listed))
	}
	for _, m := range listed {
		if !tested[string(m[1])] {
			t.Errorf("%s has neither a golden nor a direct test", m[1])
		}
		delete(tested, string(m[1]))
	}
	for name := range tested {
		t.Errorf("%s is tested but not in ops.table", name)
	}
}
