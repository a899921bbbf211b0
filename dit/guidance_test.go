package dit

import (
	"fmt"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// diffusers' rescale_noise_cfg and EDM2's autoguidance, by bench/parity/gen_goldens_guidance.py.
func TestMixEqualsOriginals(t *testing.T) {
	g := torchtest.Open(t, "testdata/guidance.safetensors")
	var scales, factors []float64
	g.Config("scales", &scales)
	g.Config("factors", &factors)
	if len(scales) != 2 || len(factors) != 3 {
		t.Fatalf("scales %v, factors %v", scales, factors)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		strong, weak := g.Tensor(s, "strong"), g.Tensor(s, "weak")
		near := func(name string, got *torch.Tensor) {
			t.Helper()
			if e := torchtest.Relative(s, got, g.Tensor(s, name)); !(e < 1e-6) {
				t.Errorf("%s: relative error %.2g", name, e)
			}
		}
		for _, scale := range scales {
			all := Guidance{Scale: scale, Channels: GuideAll}
			near(fmt.Sprintf("autoguidance.%g", scale), all.Mix(s, strong, weak, 4))
			for _, factor := range factors {
				all.Rescale = factor
				name := fmt.Sprintf("rescale.%g.%g", scale, factor)
				near(name, all.Mix(s, strong, weak, 4))
				// Channels for a variance neither count nor change.
				more := s.Cat([]*torch.Tensor{strong, s.MulScalar(strong, 100)}, 1)
				out := all.Mix(s, more, weak, 4)
				near(name, s.Narrow(out, 1, 0, 4))
				if torchtest.Relative(s, s.Narrow(out, 1, 4, 4), s.Narrow(more, 1, 4, 4)) != 0 {
					t.Errorf("%s: the variance is guided", name)
				}
			}
		}
		// Of three guided channels the fourth is left out of the deviations.
		three := Guidance{Scale: 4, Channels: GuideThree, Rescale: 1}.Mix(s, strong, weak, 4)
		if torchtest.Relative(s, s.Narrow(three, 1, 3, 1), s.Narrow(strong, 1, 3, 1)) != 0 {
			t.Error("the fourth channel is guided")
		}
		first := func(x *torch.Tensor) *torch.Tensor { return s.Narrow(s.Narrow(x, 0, 0, 1), 1, 0, 3) }
		if a, b := s.Std(first(three)).Item(), s.Std(first(strong)).Item(); !(a > 0.99999*b && a < 1.00001*b) {
			t.Errorf("deviation %v of the guided channels, want %v", a, b)
		}
		return nil
	})
}
