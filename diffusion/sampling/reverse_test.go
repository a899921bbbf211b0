package sampling

import (
	"math"
	"os"
	"testing"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The demo's model without guidance: ddim goes to data in 100 steps, and the same steps back to the noise it began at.
func TestDDIMOfDemoGoesBack(t *testing.T) {
	const run = "../../build/demo/run"
	if _, err := os.Stat(run); err != nil {
		t.Skip("no model of the demo here: make demo trains one")
	}
	w, err := dit.Read(run, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	own, err := gaussian.New("100")
	if err != nil {
		t.Fatal(err)
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		m, err := w.Load(s)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		s = s.NoGrad()
		cfg := m.Config()
		const n = 10
		labels := s.Arange(n, torch.Int64)
		model := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return m.Forward(s, x, t, dit.Condition{Labels: labels})
		}
		z := torchtest.Normal(s, 1, n, cfg.InChannels, cfg.InputSize, cfg.Width())
		draw := func(x *torch.Tensor, back bool) *torch.Tensor {
			v, err := solver.New(s, solver.Config{Name: "ddim", Grid: own.Grid(), Reverse: back})
			if err != nil {
				t.Fatal(err)
			}
			x, err = diffusion.Sample(s, v, model, x, nil, func(int) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		data := draw(z, false)
		rms := func(x *torch.Tensor) float64 { return math.Sqrt(s.Mean(s.Square(s.To(x, torch.Float64))).Item()) }
		if moved := rms(s.Subtract(data, z)); !(moved > 0.5) {
			t.Errorf("data are %.2g from their noise", moved)
		}
		off := rms(s.Subtract(draw(data, true), z))
		t.Logf("%.2g from the noise it began at", off)
		if !(off <= 1e-2) {
			t.Errorf("%.2g from the noise it began at, want at most 0.01", off)
		}
		return nil
	})
}
