package sampling

import (
	"strconv"
	"testing"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Whole runs of SiT's and REPA's samplers on a small network: the same seed gives the same latents.
func TestFlowLoopsEqualOriginals(t *testing.T) {
	g := torchtest.Open(t, "testdata/flows.safetensors")
	var cases map[string]struct {
		Family, Path, Solver string
		Steps                int
		CFGScale             float64 `json:"cfg_scale"`
		Low, High            float64
		Seed                 uint64
		Labels               []int
	}
	g.Config("cases", &cases)
	var own map[string]float64
	g.Config("f64", &own)
	if len(cases) < 10 {
		t.Fatalf("%d cases", len(cases))
	}
	w, err := dit.Read("testdata/model.safetensors", "DiT-80x2x4/4")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	torchtest.Run(t, func(s *torch.Scope) error {
		m, err := w.Load(s)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		for name, c := range cases {
			r := Request{Labels: c.Labels, CFGScale: c.CFGScale, Solver: c.Solver, Seed: c.Seed, RNG: "torch",
				Process: &dit.Process{Objective: "velocity", Path: c.Path, NoiseAtOne: c.Family == dit.REPA}}
			if c.Steps > 0 {
				r.Steps = strconv.Itoa(c.Steps)
			}
			if c.Low != 0 || c.High != 1 {
				r.GuidanceInterval = [2]float64{c.Low, c.High}
			}
			d, err := newDrawing(m, r)
			if err != nil {
				return err
			}
			d.generator = torch.CPU // which drew the noise of the goldens
			want := g.Tensor(s, name+".latents")
			err = d.run(t.Context(), s, func(s *torch.Scope, _ int, got *torch.Tensor) error {
				off := largest(s, s.Subtract(got, want)) / largest(s, want)
				t.Logf("%s: %.1e of the largest latent; the original in float32 is %.1e from itself in float64", name,
					off, own[name])
				// Under guidance the steps of dopri5 follow from errors that guidance makes larger, rounding among
				// them: there the original in float32 is 1.9e-5 from itself, so two of them may be twice that from
				// each other.
				// Of all other cases that is below 1e-5.
				if limit := max(1e-5, 2*own[name]); !(off <= limit) {
					t.Errorf("%s: %g of the largest latent from the original", name, off)
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
