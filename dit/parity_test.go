package dit

import (
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The forward pass at all sizes of the paper, with random weights that are nowhere zero. L and XL take
// most of the time.
func TestTwelveSizesEqualOriginal(t *testing.T) {
	g := torchtest.Open(t, "testdata/sizes.safetensors")
	for _, name := range Names() {
		if testing.Short() && strings.Contains(name, "L") {
			continue
		}
		cfg, err := Named(name)
		if err != nil {
			t.Fatal(err)
		}
		torchtest.Run(t, func(s *torch.Scope) error {
			m, err := New(s, cfg)
			if err != nil {
				return err
			}
			defer nn.Close(m)
			for i, p := range nn.List(m) {
				if p.Name == posEmbed {
					continue
				}
				if err := torchtest.PhiloxWeights(p.Tensor, i, 0, 0); err != nil {
					return err
				}
			}
			s = s.NoGrad()
			out := m.Forward(s, g.Tensor(s, "x"), g.Tensor(s, "t"), Condition{Labels: g.Tensor(s, "y")})
			d := torchtest.Relative(s, out, g.Tensor(s, name+".out"))
			t.Logf("%s: %.1e", name, d)
			if !(d < tolerance) {
				t.Errorf("%s: %g from the original", name, d)
			}
			return nil
		})
	}
}
