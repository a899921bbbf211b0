package nn_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

type norm struct{ Eps float64 }

type block struct {
	Norm  norm
	Proj  nn.Linear  `dit:"attn.proj"`
	Short *nn.Linear `dit:"short"`
}

type model struct {
	Width  int
	Pos    *torch.Tensor   `dit:"pos_embed,buffer"`
	Blocks []*block        `dit:"blocks"`
	Pair   [2]nn.Linear    `dit:"pair"`
	Extra  *torch.Tensor   `dit:"extra,optional"`
	List   []*torch.Tensor `dit:"list"`
	Cache  *torch.Tensor   `dit:"-"`
	Inner  struct {
		Final nn.Linear `dit:"final"`
	} `dit:""`
	hidden *torch.Tensor
}

func newModel(t *testing.T, s *torch.Scope) *model {
	m := &model{
		Pos:    torch.Persist(s.Zeros(torch.Float32, 1, 2)),
		Blocks: []*block{{Proj: nn.NewLinear(s, 2, 3)}, {Proj: nn.NewLinear(s, 3, 2)}},
		Pair:   [2]nn.Linear{nn.NewLinear(s, 1, 1), nn.NewLinear(s, 1, 2)},
		List:   []*torch.Tensor{nn.Parameter(s, 4), nn.Parameter(s, 5)},
		Cache:  s.Ones(torch.Float32, 1),
		hidden: s.Ones(torch.Float32, 1),
	}
	short := nn.NewLinear(s, 2, 2)
	m.Blocks[1].Short = &short
	m.Inner.Final = nn.NewLinear(s, 2, 2)
	m.Inner.Final.Bias.Close()
	m.Inner.Final.Bias = nil // optional
	t.Cleanup(func() { nn.Close(m) })
	return m
}

var modelNames = []string{
	"pos_embed", "blocks.0.attn.proj.weight", "blocks.0.attn.proj.bias", "blocks.1.attn.proj.weight",
	"blocks.1.attn.proj.bias",
	"blocks.1.short.weight", "blocks.1.short.bias", "pair.0.weight", "pair.0.bias", "pair.1.weight", "pair.1.bias",
	"list.0", "list.1", "final.weight",
}

func names(m any) (out []string) {
	for name := range nn.Params(m) {
		out = append(out, name)
	}
	return out
}

func TestParamsInOrderOfDeclaration(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m := newModel(t, s)
		for range 100 {
			if got := names(m); !slices.Equal(got, modelNames) {
				t.Fatalf("got %v\nwant %v", got, modelNames)
			}
		}
		for _, p := range nn.List(m) {
			if p.Buffer != (p.Name == "pos_embed") || p.Tensor.RequiresGrad() == p.Buffer {
				t.Errorf("%s: buffer %v, requires grad %v", p.Name, p.Buffer, p.Tensor.RequiresGrad())
			}
		}
		if n := nn.NumParams(m); n != 2+(6+3)+(6+2)+(4+2)+(1+1)+(2+2)+4+5+4 {
			t.Errorf("%d parameters", n)
		}
		for name := range nn.Params(m) { // a walk may be left
			if name == "pos_embed" {
				break
			}
		}
		return nil
	})
}

func TestTiedTensorsOccurOnce(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m := newModel(t, s)
		m.Pair[1].Bias.Close()
		m.Pair[1].Bias = m.Blocks[0].Proj.Bias
		want := slices.DeleteFunc(slices.Clone(modelNames), func(name string) bool { return name == "pair.1.bias" })
		if got := names(m); !slices.Equal(got, want) {
			t.Errorf("got %v\nwant %v", got, want)
		}
		// Bind keeps the tie and leaves the old tensors open.
		old := nn.List(m)
		params := slices.Clone(old)
		for i := range params {
			params[i].Tensor = torch.Persist(s.Clone(params[i].Tensor))
		}
		nn.Bind(m, params)
		for i, p := range nn.List(m) {
			if p.Name != params[i].Name || p.Tensor != params[i].Tensor {
				t.Errorf("%s is not the bound tensor", p.Name)
			}
			old[i].Tensor.Close()
		}
		if m.Pair[1].Bias != m.Blocks[0].Proj.Bias {
			t.Error("Bind undid the tie")
		}
		panics(t, `no tensor "pos_embed"`, func() { nn.Bind(m, params[1:]) })
		return nil
	})
}

type part interface{ width() int }

func (b *block) width() int { return b.Proj.Weight.Dim(0) }

// A copy bound to other tensors leaves the model as it was, whatever its modules stand behind.
func TestCopySharesTensorsAlone(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m := &struct {
			Model *model `dit:"model"`
			Parts []part `dit:"parts"`
		}{newModel(t, s), []part{&block{Proj: nn.NewLinear(s, 2, 7)}}}
		defer nn.Close(&m.Parts[0].(*block).Proj)
		before := nn.List(m)
		c := nn.Copy(m)
		if !slices.Equal(nn.List(c), before) {
			t.Error("the copy has other tensors")
		}
		others := slices.Clone(before)
		for i, p := range others {
			others[i].Tensor = s.Clone(p.Tensor)
		}
		nn.Bind(c, others)
		if !slices.Equal(nn.List(c), others) || !slices.Equal(nn.List(m), before) {
			t.Error("binding the copy changed the model, or not the copy")
		}
		if c.Parts[0].width() != 7 || c.Model.Cache != m.Model.Cache {
			t.Error("what holds no parameter was not copied")
		}
		return nil
	})
}

// panics fails unless f panics with a text that contains all of parts, separated by "|".
func panics(t *testing.T, parts string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		r := recover()
		for _, part := range strings.Split(parts, "|") {
			if r == nil || !strings.Contains(fmt.Sprint(r), part) {
				t.Errorf("panic %v, want one that says %q", r, part)
			}
		}
	}()
	f()
}

func TestWrongTagsPanic(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		x := s.Ones(torch.Float32, 1)
		y := s.Ones(torch.Float32, 1)
		l := nn.Linear{Weight: x, Bias: y}
		panics(t, "Weight|needs a dit tag", func() { nn.List(&struct{ Weight *torch.Tensor }{x}) })
		panics(t, "Layer|needs a dit tag", func() { nn.List(&struct{ Layer nn.Linear }{l}) })
		panics(t, "Layers|needs a dit tag", func() { nn.List(&struct{ Layers []*nn.Linear }{}) })
		panics(t, `Weight|"weight,fixed"|unknown option "fixed"`, func() {
			nn.List(&struct {
				Weight *torch.Tensor `dit:"weight,fixed"`
			}{x})
		})
		panics(t, `"weight" is nil and not optional`, func() {
			nn.List(&struct {
				Weight *torch.Tensor `dit:"weight"`
			}{})
		})
		panics(t, `"a.weight" is nil and not optional`, func() {
			nn.List(&struct {
				A nn.Linear `dit:"a"`
			}{nn.Linear{Bias: y}})
		})
		panics(t, `two tensors are called "w"`, func() {
			nn.List(&struct {
				A *torch.Tensor `dit:"w"`
				B *torch.Tensor `dit:"w"`
			}{x, y})
		})
		panics(t, `"n"|int holds no parameters`, func() {
			nn.List(&struct {
				N int `dit:"n"`
			}{3})
		})
		panics(t, `"m"|map`, func() {
			nn.List(&struct {
				M map[string]*torch.Tensor `dit:"m"`
			}{})
		})
		return nil
	})
}

// What computes in the precision are weights and biases of products, in a field, behind a pointer and in a list.
func TestProducts(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m := newModel(t, s)
		var got []string
		for _, p := range nn.List(m) {
			if p.Product {
				got = append(got, p.Name)
			}
		}
		want := slices.DeleteFunc(slices.Clone(modelNames), func(name string) bool {
			return name == "pos_embed" || strings.HasPrefix(name, "list.")
		})
		if !slices.Equal(got, want) {
			t.Errorf("products are %v, want %v", got, want)
		}
		layers := struct {
			Conv  nn.Conv2d    `dit:"conv"`
			Norm  nn.LayerNorm `dit:"norm"`
			Group nn.GroupNorm `dit:"group"`
			Table nn.Embedding `dit:"table"`
		}{nn.NewConv2d(s, 1, 1, 1, 1, 0), nn.NewLayerNorm(s, 2, 1), nn.NewGroupNorm(s, 1, 2, 1),
			nn.NewEmbedding(s, 2, 2)}
		defer nn.Close(&layers)
		for _, p := range nn.List(&layers) {
			if p.Product != strings.HasPrefix(p.Name, "conv.") {
				t.Errorf("%s: Product is %v", p.Name, p.Product)
			}
		}
		return nil
	})
}

// A derived tensor belongs to its module, but is none of its parameters: it has no name, stays in a copy, and is freed
// with the module.
func TestDerived(t *testing.T) {
	type part struct {
		Weight *torch.Tensor `dit:"weight"`
		Table  *torch.Tensor `dit:"table,derived"`
		None   *torch.Tensor `dit:"none,derived"`
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		before := torch.Live()
		m := &part{Weight: nn.Parameter(s, 2), Table: torch.Persist(s.Ones(torch.Float32, 3))}
		if got := names(m); !slices.Equal(got, []string{"weight"}) {
			t.Errorf("parameters %v", got)
		}
		c := nn.Copy(m)
		nn.Bind(c, []nn.Param{{Name: "weight", Tensor: s.Ones(torch.Float32, 2)}})
		if c.Table != m.Table || c.Weight == m.Weight {
			t.Error("a copy on other parameters: want the same table")
		}
		s.Release(c.Weight)
		nn.Close(m)
		if n := torch.Live(); n != before {
			t.Errorf("%d tensors live after Close, %d before", n, before)
		}
		return nil
	})
}
