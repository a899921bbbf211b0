package dit

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// official describes one of the paper's models as the original builds it.
type official struct {
	Params, Trainable int
	Keys              [][2]json.RawMessage // name, shape
	// standard deviation and largest magnitude of a model of one block
	InitDepth1 map[string][2]float64 `json:"init_depth1"`
}

func (o official) tensors(t *testing.T) []string {
	var out []string
	for _, k := range o.Keys {
		var name string
		var shape []int
		if err := json.Unmarshal(k[0], &name); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(k[1], &shape); err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s %v", name, shape))
	}
	return out
}

func officials(t *testing.T) map[string]official {
	t.Helper()
	text, err := os.ReadFile("testdata/models.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]official
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// shallow returns the configuration of an official model with one block: the others are like it, and
// all of them would fill gigabytes.
func shallow(t *testing.T, name string) (full, one Config) {
	t.Helper()
	base, at512 := strings.CutSuffix(name, "@512")
	full, err := Named(base)
	if err != nil {
		t.Fatal(err)
	}
	if at512 {
		full.InputSize = 64
	}
	one = full
	one.Depth = 1
	return full, one
}

var firstBlockPattern = regexp.MustCompile(`^blocks\.0\.`)

// repeatBlock gives the list of tensors of a model of depth blocks from that of one.
func repeatBlock(tensors []string, depth int) []string {
	first := slices.IndexFunc(tensors, firstBlockPattern.MatchString)
	end := first
	for end < len(tensors) && firstBlockPattern.MatchString(tensors[end]) {
		end++
	}
	out := slices.Clone(tensors[:first])
	for i := range depth {
		for _, x := range tensors[first:end] {
			out = append(out, firstBlockPattern.ReplaceAllString(x, fmt.Sprintf("blocks.%d.", i)))
		}
	}
	return append(out, tensors[end:]...)
}

func describe(params []nn.Param) (tensors []string, elements, trained int) {
	for _, p := range params {
		tensors = append(tensors, fmt.Sprintf("%s %v", p.Name, p.Tensor.Shape()))
		elements += p.Tensor.NumElements()
		if p.Tensor.RequiresGrad() {
			trained += p.Tensor.NumElements()
		}
	}
	return tensors, elements, trained
}

// Names, order, shapes and numbers of parameters are the original's in all its models.
func TestModelsEqualOriginal(t *testing.T) {
	all := officials(t)
	if len(all) != 13 {
		t.Fatalf("%d models in the golden file, want the twelve and XL/2 at 512 pixels", len(all))
	}
	for name, want := range all {
		full, cfg := shallow(t, name)
		if n := full.NumParams(); n != float64(want.Params) {
			t.Errorf("%s: NumParams() = %.0f, want %d", name, n, want.Params)
		}
		torchtest.Run(t, func(s *torch.Scope) error {
			m, err := New(s, cfg)
			if err != nil {
				return err
			}
			defer nn.Close(m)
			got, elements, trained := describe(nn.List(m))
			if float64(elements) != cfg.NumParams() {
				t.Errorf("%s of one block: %d parameters, NumParams says %.0f", name, elements, cfg.NumParams())
			}
			got, golden := repeatBlock(got, full.Depth), want.tensors(t)
			if !slices.Equal(got, golden) {
				for i := range min(len(got), len(golden)) {
					if got[i] != golden[i] {
						t.Errorf("%s: tensor %d is %s, want %s", name, i, got[i], golden[i])
						break
					}
				}
				t.Errorf("%s: %d tensors, want %d", name, len(got), len(golden))
			}
			if frozen := elements - trained; frozen != want.Params-want.Trainable {
				t.Errorf("%s: %d elements are not trained, want %d", name, frozen, want.Params-want.Trainable)
			}
			return nil
		})
	}
}

// A whole model, so that the rule above does not hide a mistake in the number of blocks.
func TestSmallestModelIsWhole(t *testing.T) {
	want := officials(t)["DiT-S/8"]
	cfg, err := Named("DiT-S/8")
	if err != nil {
		t.Fatal(err)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		m, err := New(s, cfg)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		got, elements, trained := describe(nn.List(m))
		if !slices.Equal(got, want.tensors(t)) || elements != want.Params || trained != want.Trainable ||
			nn.NumParams(m) != want.Params {
			t.Errorf("%d tensors of %d elements, %d of them trained; want %d, %d, %d", len(got), elements, trained,
				len(want.Keys), want.Params, want.Trainable)
		}
		if m.Config() != cfg {
			t.Errorf("Config() = %+v, want %+v", m.Config(), cfg)
		}
		return nil
	})
}

// Each tensor starts with the distribution that the original gives it. The numbers are those of one
// draw of the original; two draws of n uniforms or normals differ in their standard deviation by a
// few 1/sqrt(2n).
func TestInitEqualsOriginal(t *testing.T) {
	all := officials(t)
	for _, name := range []string{"DiT-S/2", "DiT-B/4", "DiT-XL/8"} {
		_, cfg := shallow(t, name)
		torchtest.Run(t, func(s *torch.Scope) error {
			m := initialised(t, s, cfg, 1)
			for key, p := range nn.Params(m) {
				golden, ok := all[name].InitDepth1[key]
				if !ok {
					t.Errorf("%s: the original has no %s", name, key)
					continue
				}
				x := s.To(p, torch.Float64)
				std, top := s.Std(x).Item(), s.MaxAll(s.Abs(x)).Item()
				n := float64(p.NumElements())
				if math.Abs(std-golden[0]) > 6*golden[0]/math.Sqrt(2*n)+1e-5*golden[0] {
					t.Errorf("%s: %s has standard deviation %.6g, want %.6g", name, key, std, golden[0])
				}
				// A uniform comes close to its bound; the largest of many normals varies by a few percent.
				limit := 1e-3
				if strings.HasPrefix(key, "t_embedder") || strings.HasPrefix(key, "y_embedder") {
					limit = 0.15
				}
				if n < 1e5 {
					limit = max(limit, 0.05)
				}
				if math.Abs(top-golden[1]) > limit*golden[1] {
					t.Errorf("%s: the largest of %s is %.6g, want %.6g", name, key, top, golden[1])
				}
			}
			return nil
		})
	}
}

// The fused matrix of queries, keys and values is initialised as one of 3D rows: its bound is
// sqrt(6/4D), not the sqrt(6/2D) of three matrices.
func TestInitBounds(t *testing.T) {
	_, cfg := shallow(t, "DiT-S/2")
	torchtest.Run(t, func(s *torch.Scope) error {
		m := initialised(t, s, cfg, 3)
		b := m.Blocks[0].(*Block)
		for _, c := range []struct {
			name  string
			w     *torch.Tensor
			bound float64
		}{
			{"qkv", b.Attn.QKV.Weight, 0.0625},
			{"proj", b.Attn.Proj.Weight, 0.088388},
			{"fc1", b.MLP.FC1.Weight, 0.055902},
			{"fc2", b.MLP.FC2.Weight, 0.055902},
			{"patch projection", m.XEmbedder.Proj.Weight, 0.122474},
		} {
			top := s.MaxAll(s.Abs(c.w)).Item()
			if top > c.bound*1.00001 || top < c.bound*0.999 {
				t.Errorf("largest magnitude of %s is %.6f, want just below %.6f", c.name, top, c.bound)
			}
		}
		return nil
	})
}

func initialised(t *testing.T, s *torch.Scope, cfg Config, seed uint64) *DiT {
	t.Helper()
	gen, err := torch.NewGenerator(torch.CPU, seed)
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nn.Close(m) })
	m.Init(s.NoGrad(), gen)
	return m
}

// adaLN-Zero: a new model answers exactly zero, and the first gradient reaches the last layer alone.
func TestNewModelIsZero(t *testing.T) {
	cfg := tiny(t)
	torchtest.Run(t, func(s *torch.Scope) error {
		m := initialised(t, s, cfg, 5)
		x := torchtest.Normal(s, 1, 3, 4, 8, 8)
		out := m.Forward(s, x, torch.From(s, []int64{0, 500, 999}, 3),
			Condition{Labels: torch.From(s, []int64{1, 10, 4}, 3)})
		if top := s.MaxAll(s.Abs(out)).Item(); top != 0 {
			t.Errorf("largest output %v, want 0", top)
		}
		w := torchtest.Normal(s, 2, 3, 8, 8, 8)
		s.Backward(s.Sum(s.Mul(out, w)))
		for name, p := range nn.Params(m) {
			g := s.Grad(p)
			zero := g == nil || s.MaxAll(s.Abs(g)).Item() == 0
			if last := strings.HasPrefix(name, "final_layer.linear."); zero == last {
				t.Errorf("gradient of %s is zero: %v", name, zero)
			}
		}
		return nil
	})
}

func TestInitIsAFunctionOfTheSeed(t *testing.T) {
	cfg := tiny(t)
	torchtest.Run(t, func(s *torch.Scope) error {
		a, b, c := nn.State(initialised(t, s, cfg, 7)), nn.State(initialised(t, s, cfg, 7)),
			nn.State(initialised(t, s, cfg, 8))
		same := true
		for i := range a {
			if !slices.Equal(a[i].Data, b[i].Data) {
				t.Errorf("%s differs between two models of one seed", a[i].Name)
			}
			same = same && slices.Equal(a[i].Data, c[i].Data)
		}
		if same {
			t.Error("two seeds give one model")
		}
		return nil
	})
}
