package vae

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The goldens are float32 results of diffusers, whose own distance from float64 is up to 1e-6; other
// kernels sum in another order, and gradients add up over all positions.
const (
	tolerance     = 5e-6
	gradTolerance = 2e-5
)

// TestMain computes on one thread: the tensors are small, and oneDNN's threads wait for each other by
// spinning, which costs many times the work where other test binaries want the same cores.
func TestMain(m *testing.M) {
	torch.SetNumThreads(1)
	os.Exit(m.Run())
}

func openTestModel(t testing.TB, name string) *AutoencoderKL {
	t.Helper()
	m, err := Open(filepath.Join("testdata", name), torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestForwardAndGradientsEqualDiffusers(t *testing.T) {
	for _, name := range []string{"tiny", "three"} {
		t.Run(name, func(t *testing.T) {
			m := openTestModel(t, name)
			g := torchtest.Open(t, filepath.Join("testdata", name+"_golden.safetensors"))
			var klWeight, heavyWeight float64
			var noGradient []string
			g.Config("kl_weight", &klWeight)
			g.Config("heavy_kl_weight", &heavyWeight)
			g.Config("no_gradient", &noGradient)
			torchtest.Run(t, func(s *torch.Scope) error {
				check := func(what string, got, want *torch.Tensor, limit float64) {
					t.Helper()
					if e := torchtest.Relative(s, got, want); !(e < limit) {
						t.Errorf("%s: relative error %.2g, want below %.2g", what, e, limit)
					}
				}
				forward := func(klWeight float64) *torch.Tensor {
					image := g.Tensor(s, "image")
					mean, logvar := m.Encode(s, image)
					z := Sample(s, mean, logvar, g.Tensor(s, "noise"))
					decoded := m.Decode(s, z)
					kl := KL(s, mean, logvar)
					for what, v := range map[string]*torch.Tensor{"mean": mean, "logvar": logvar, "z": z,
						"decoded": decoded, "kl": kl} {
						check(what, v, g.Tensor(s, what), tolerance)
					}
					return s.Add(s.MSELoss(decoded, image), s.MulScalar(s.Mean(kl), klWeight))
				}
				loss := forward(klWeight)
				check("loss", loss, g.Tensor(s, "loss"), tolerance)
				s.Backward(loss)
				for name, p := range nn.Params(m) {
					if !slices.Contains(noGradient, name) {
						check("gradient of "+name, s.Grad(p), g.Tensor(s, "grad."+name), gradTolerance)
					}
					p.ClearGrad()
				}
				s.Backward(forward(heavyWeight))
				for name, p := range nn.Params(m) {
					if _, ok := g.Lookup("heavy.grad." + name); ok {
						check("gradient with much KL of "+name, s.Grad(p), g.Tensor(s, "heavy.grad."+name),
							gradTolerance)
					}
					p.ClearGrad()
				}
				return nil
			})
		})
	}
}

func TestPosteriorEqualsDiffusers(t *testing.T) {
	g := torchtest.Open(t, filepath.Join("testdata", "gaussian.safetensors"))
	torchtest.Run(t, func(s *torch.Scope) error {
		moments := g.Tensor(s, "moments")
		moments.SetRequiresGrad(true)
		mean, logvar := posterior(s, moments)
		kl := KL(s, mean, logvar)
		s.Backward(s.Sum(kl))
		for name, got := range map[string]*torch.Tensor{
			"mean": mean, "logvar": logvar, "kl": kl, "grad": s.Grad(moments),
			"sample": Sample(s, mean, logvar, g.Tensor(s, "noise")),
		} {
			if e := torchtest.Relative(s, got, g.Tensor(s, name)); !(e < tolerance) {
				t.Errorf("%s: relative error %.2g", name, e)
			}
		}
		return nil
	})
}

// TestStableDiffusionLayout compares names, shapes, order and the spread of the initial weights with
// the model that diffusers makes.
func TestStableDiffusionLayout(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "sd_keys.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Config json.RawMessage       `json:"config"`
		Params int                   `json:"params"`
		Keys   [][2]json.RawMessage  `json:"keys"`
		Init   map[string][2]float64 `json:"init"` // standard deviation, largest magnitude
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	if err := json.Unmarshal(want.Config, &cfg); err != nil {
		t.Fatal(err)
	}
	if a, b := asJSON(t, cfg), asJSON(t, StableDiffusion()); a != b {
		t.Errorf("StableDiffusion() is %s, diffusers has %s", b, a)
	}
	if n := cfg.NumParams(); n != want.Params || n != 83_653_863 {
		t.Errorf("%d parameters, diffusers has %d", n, want.Params)
	}
	gen, err := torch.NewGenerator(torch.CPU, 1)
	if err != nil {
		t.Fatal(err)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		m, err := New(s, cfg)
		if err != nil {
			return err
		}
		defer m.Close()
		m.Init(s, gen)
		params := nn.List(m)
		if len(params) != len(want.Keys) || len(params) != 248 {
			t.Fatalf("%d tensors, want %d", len(params), len(want.Keys))
		}
		s = s.NoGrad()
		for i, p := range params {
			var name string
			var shape []int
			if err := json.Unmarshal(want.Keys[i][0], &name); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(want.Keys[i][1], &shape); err != nil {
				t.Fatal(err)
			}
			if p.Name != name || !slices.Equal(p.Tensor.Shape(), shape) {
				t.Errorf("tensor %d is %s %v, want %s %v", i, p.Name, p.Tensor.Shape(), name, shape)
				continue
			}
			err := s.Try(func(s *torch.Scope) error {
				init, n := want.Init[name], float64(p.Tensor.NumElements())
				if most := s.MaxAll(s.Abs(p.Tensor)).Item(); !near(most, init[1], 10/n) {
					t.Errorf("%s starts with magnitudes up to %v, want %v", name, most, init[1])
				}
				if n < 1000 {
					return nil // too few to tell their spread
				}
				if std := s.Std(p.Tensor).Item(); !near(std, init[0], 5/math.Sqrt(n)) {
					t.Errorf("%s starts with deviation %v, want %v", name, std, init[0])
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// near reports whether a is b within a share of it; the share is at least 0.01, the draws being other.
func near(a, b, share float64) bool { return math.Abs(a-b) <= max(share, 0.01)*b }

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
