package dit

import (
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// tolerance for float32 results: the original in float32 is 8e-7 from itself in float64; sums in
// another order stay within a few times that.
const tolerance = 5e-6

func load(t *testing.T, s *torch.Scope, cfg Config, src checkpoint.Source) *DiT {
	t.Helper()
	m, err := New(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nn.Close(m) })
	if err := nn.Load(s, m, src, true); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestForwardAndGradientsEqualOriginal(t *testing.T) {
	for _, tc := range []struct{ file, weights, prefix string }{
		{"tiny_golden.safetensors", "tiny.safetensors", ""},
		{"patch4.safetensors", "patch4.safetensors", "model."},
		{"patch8.safetensors", "patch8.safetensors", "model."},
		{"nosigma.safetensors", "nosigma.safetensors", "model."},
	} {
		t.Run(tc.file, func(t *testing.T) {
			g, w := torchtest.Open(t, "testdata/"+tc.file), torchtest.Open(t, "testdata/"+tc.weights)
			cfg := Config{MLPRatio: 4, ClassDropoutProb: 0.1}
			g.Config("model", &cfg)
			err := torch.Run(torchtest.Device(t), func(s *torch.Scope) error {
				m := load(t, s, cfg, w.Prefix(tc.prefix))
				s.Copy_(m.TEmbedder.Frequencies, torch.From(s, goldenFrequencies(), 1, frequencyEmbeddingSize/2))
				out := m.Forward(s, g.Tensor(s, "x"), g.Tensor(s, "t"), Condition{Labels: g.Tensor(s, "y")})
				if e := torchtest.Relative(s, out, g.Tensor(s, "out")); !(e < tolerance) {
					t.Errorf("output: relative error %.2g", e)
				}
				s.Backward(s.Sum(s.Mul(out, g.Tensor(s, "w"))))
				for name, p := range nn.Params(m) {
					if name == "pos_embed" {
						continue
					}
					if e := torchtest.Relative(s, s.Grad(p), g.Tensor(s, "grad."+name)); !(e < tolerance) {
						t.Errorf("gradient of %s: relative error %.2g", name, e)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
