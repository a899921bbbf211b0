package sampling

import (
	"context"
	"math"
	"testing"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
	"github.com/ditrun/ditrun/vae"
)

// Whole runs of the original's sample.py on a small trained model: the same seed gives the same latents
// after all steps, and the same pixels.
func TestLoopsEqualOriginal(t *testing.T) {
	g := torchtest.Open(t, "testdata/loops.safetensors")
	var cases map[string]struct {
		Steps    string
		Sampler  string
		CFGScale float64 `json:"cfg_scale"`
		Channels int
		Size     int
		Seed     uint64
		Labels   []int
	}
	g.Config("cases", &cases)
	var own map[string]float64
	g.Config("f64", &own)
	if len(cases) < 8 {
		t.Fatalf("%d cases", len(cases))
	}
	v, err := vae.Open("testdata/vae", torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for name, c := range cases {
		torchtest.Run(t, func(s *torch.Scope) error {
			w, err := dit.Read("testdata/model.safetensors", "DiT-80x2x4/4")
			if err != nil {
				return err
			}
			defer w.Close()
			if _, err := w.Adapt(dit.Changes{InputSize: c.Size}); err != nil {
				return err
			}
			m, err := w.Load(s)
			if err != nil {
				return err
			}
			defer nn.Close(m)
			guided := dit.GuideThree
			if c.Channels != 3 {
				guided = dit.GuideAll
			}
			d, err := newDrawing(m, Request{Labels: c.Labels, CFGScale: c.CFGScale, Guided: guided, Steps: c.Steps,
				Solver: c.Sampler, Seed: c.Seed, RNG: "torch"})
			if err != nil {
				return err
			}
			d.generator = torch.CPU // which drew the noise of the goldens
			var got *torch.Tensor
			err = d.run(context.Background(), s, func(_ *torch.Scope, _ int, x *torch.Tensor) error {
				got = s.NoGrad().Clone(x)
				return nil
			})
			if err != nil {
				return err
			}
			want := g.Tensor(s, name+".latents")
			off := largest(s, s.Subtract(got, want)) / largest(s, want)
			t.Logf("%s: %.1e of the largest latent; the original in float32 is %.1e from itself in float64", name, off,
				own[name])
			if !(off <= 1e-5) {
				t.Errorf("%s: %g of the largest latent from the original", name, off)
			}
			if _, ok := g.Lookup(name + ".ddp"); !ok {
				return nil
			}
			pictures, err := Decode(context.Background(), s, v, got, v.Config().ScalingFactor)
			if err != nil {
				return err
			}
			pix := pictures.Pix
			for _, rule := range []string{".ddp", ".png"} {
				theirs := torch.Data[uint8](g.Tensor(s, name+rule))
				if len(pix) != len(theirs) {
					t.Fatalf("%s: %d bytes of pixels, want %d", name, len(pix), len(theirs))
				}
				most, differ := 0, 0
				for i := range pix {
					if d := int(math.Abs(float64(pix[i]) - float64(theirs[i]))); d > 0 {
						most = max(most, d)
						differ++
					}
				}
				t.Logf("%s%s: at most %d levels, in %d of %d bytes", name, rule, most, differ, len(pix))
				if most > 1 {
					t.Errorf("%s%s: pixels differ by %d levels", name, rule, most)
				}
			}
			return nil
		})
	}
}

// largest is the largest magnitude in x.
func largest(s *torch.Scope, x *torch.Tensor) float64 {
	most := 0.0
	for _, v := range torch.Data[float32](s.To(x, torch.Float32)) {
		most = max(most, math.Abs(float64(v)))
	}
	return most
}
