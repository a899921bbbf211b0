package sampling

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// weaker is a model of other weights.
func weaker(t *testing.T, s *torch.Scope, condition dit.ConditionKind) *dit.DiT {
	t.Helper()
	m := conditioned(t, s, dit.AdaLNZero, condition)
	for _, p := range nn.List(m) {
		s.NoGrad().Copy_(p.Tensor, s.NoGrad().MulScalar(p.Tensor, 0.8))
	}
	return m
}

// The answer under autoguidance is put together from single forward passes, and no null condition is needed.
func TestAutoguidanceOfEachCondition(t *testing.T) {
	for _, condition := range dit.ConditionKinds() {
		torchtest.Run(t, func(s *torch.Scope) error {
			m := conditioned(t, s, dit.AdaLNZero, condition)
			for _, of := range []dit.ConditionKind{condition, dit.OnNothing} {
				guide := weaker(t, s, of)
				s := s.NoGrad()
				r := requestOf(s, m.Config())
				r.CFGScale, r.Guided, r.Null, r.Guide = 3, 0, Caption{}, guide
				d, err := newDrawing(m, r)
				if err != nil {
					return err
				}
				if d.Guided != dit.GuideAll {
					t.Errorf("%s: guides %d channels, want all", condition, d.Guided)
				}
				noise, err := newSource(s, d, 2)
				if err != nil {
					return err
				}
				v := newSeries(s, d, d.solver(s), nil, noise, 2)
				v.begin(s, 1) // pictures 1 and 2
				x, steps := torchtest.Normal(s, 1, 2, 4, 4, 8), torch.From(s, []int64{500, 500}, 2)
				got := v.denoiser()(s, x, steps)
				cond := dit.Condition{}
				if r.Labels != nil {
					cond.Labels = torch.From(s, []int64{int64(r.Labels[1]), int64(r.Labels[2])}, 2)
				}
				if r.Captions != nil {
					states, lengths := d.captionsOf(1, 3)
					cond.Tokens = torch.From(s, states, 2, 5, 6)
					cond.Lengths = torch.From(s, lengths, 2)
				}
				guideCond := cond
				if of == dit.OnNothing {
					guideCond = dit.Condition{}
				}
				want, weak := m.Forward(s, x, steps, cond), guide.Forward(s, x, steps, guideCond)
				eps, away := s.Narrow(want, 1, 0, 4), s.Narrow(weak, 1, 0, 4)
				want = s.Cat([]*torch.Tensor{s.Add(away, s.MulScalar(s.Subtract(eps, away), 3)),
					s.Narrow(want, 1, 4, 4)}, 1)
				if e := torchtest.Relative(s, got, want); !(e < 1e-5) {
					t.Errorf("%s by %s: relative error %.2g", condition, of, e)
				}
			}
			return nil
		})
	}
}

// With autoguidance in an interval steps draw the same however they are made, and something else than without it.
func TestAutoguidanceDraws(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m, guide := conditioned(t, s, dit.AdaLNZero, dit.OnClass), weaker(t, s, dit.OnClass)
		s = s.NoGrad()
		r := requestOf(s, m.Config())
		r.Steps, r.CFGScale, r.Guided = "6", 2, 0
		plain := r
		r.Guide, r.GuidanceInterval, r.GuidanceRescale = guide, [2]float64{300, 999}, 0.5
		for _, table := range []bool{false, true} {
			got := drawnHow(t, s, m, r, how{false, table})
			if !slices.EqualFunc(drawnHow(t, s, m, r, how{true, table}), got, bytes.Equal) {
				t.Errorf("table %v: steps by graphs give other latents", table)
			}
			for what, change := range map[string]func(r *Request){
				"classifier-free guidance": func(r *Request) { *r = plain },
				"no interval":              func(r *Request) { r.GuidanceInterval = [2]float64{} },
				"no rescaling":             func(r *Request) { r.GuidanceRescale = 0 },
				"three channels":           func(r *Request) { r.Guided = dit.GuideThree },
			} {
				other := r
				change(&other)
				if slices.EqualFunc(drawnHow(t, s, m, other, how{false, table}), got, bytes.Equal) {
					t.Errorf("table %v: %s draws the same", table, what)
				}
			}
		}
		// A model leads away from itself to nowhere else.
		r = requestOf(s, m.Config())
		r.CFGScale, r.Guide = 3, m
		self := latentsOf(t, s, m, r)
		r.CFGScale, r.Guide = 1, nil
		if e := torchtest.Relative(s, self, latentsOf(t, s, m, r)); !(e < 1e-5) {
			t.Errorf("guided by itself: relative error %.2g from no guidance", e)
		}
		return nil
	})
}

// Under guidance a run of SiT with dopri5 carries each picture twice, as forward_with_cfg does, and the errors of both
// choose the steps. The small network of the goldens hardly shows that.
func TestGuidedDopri5CarriesBoth(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m := conditioned(t, s, dit.AdaLNZero, dit.OnClass)
		s = s.NoGrad()
		r := requestOf(s, m.Config())
		r.Steps, r.Solver, r.RNG, r.CFGScale, r.Guided = "", dopri5, rngTorch, 4, dit.GuideThree
		r.Process = &dit.Process{Objective: "velocity", Path: "linear"}
		d, err := newDrawing(m, r)
		if err != nil {
			return err
		}
		source, err := newSource(s, d, 3)
		if err != nil {
			return err
		}
		cond := dit.Condition{Labels: torch.From(s, []int64{2, 0, 2, 3, 3, 3}, 6)}
		original := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor { // x is both halves or the first
			x3, t3 := s.Narrow(x, 0, 0, 3), s.Narrow(t, 0, 0, 3)
			out := m.Forward(s, s.Cat([]*torch.Tensor{x3, x3}, 0), s.Cat([]*torch.Tensor{t3, t3}, 0), cond)
			eps, rest := s.Narrow(out, 1, 0, 3), s.Narrow(out, 1, 3, 1)
			wanted, away := s.Narrow(eps, 0, 0, 3), s.Narrow(eps, 0, 3, 3)
			guided := s.Add(away, s.MulScalar(s.Subtract(wanted, away), 4))
			both := s.Cat([]*torch.Tensor{s.Cat([]*torch.Tensor{guided, guided}, 0), rest}, 1)
			return s.Narrow(both, 0, 0, x.Dim(0))
		}
		solve := func(z *torch.Tensor) *torch.Tensor {
			x, err := d.solver(s).(*solver.Dopri5).Solve(s, original, z, func(int) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			return s.Narrow(x, 0, 0, 3)
		}
		z := source.start(s, 0)
		got, twice, once := latentsOf(t, s, m, r), solve(s.Cat([]*torch.Tensor{z, z}, 0)), solve(z)
		if e := torchtest.Relative(s, got, twice); !(e < 1e-6) {
			t.Errorf("relative error %.2g", e)
		}
		if e := torchtest.Relative(s, once, twice); !(e > 3e-6) {
			t.Errorf("carried once it is %.2g from twice, which nobody could tell apart", e)
		}
		return nil
	})
}

// A pipeline leads away from the checkpoint of its options, and keeps its pictures and schedules apart.
func TestPipelineLeadsAwayFromGuide(t *testing.T) {
	vaeDir, _ := newVAE(t, 4, 1)
	ckpt := newCheckpoint(t, func(*dit.Info) {})
	open := func(guide string) *Pipeline {
		p, err := Open(torchtest.Device(t), ckpt, Options{VAE: vaeDir, Guide: guide})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	plain, led := open(""), open(ckpt) // away from itself, so nowhere
	draw := func(p *Pipeline, scale float64) []byte {
		pictures, err := p.Sample(t.Context(), Request{Labels: []int{1, 2}, CFGScale: scale, Steps: "3"})
		if err != nil {
			t.Fatal(err)
		}
		return pictures.Pix
	}
	alone := draw(plain, 1)
	if bytes.Equal(draw(plain, 3), alone) {
		t.Fatal("the model has no conditions to lead away from")
	}
	if !bytes.Equal(draw(led, 3), alone) {
		t.Error("guided by itself it draws something else than without guidance")
	}

	r := Request{Labels: []int{1, 2}, CFGScale: 3, Guided: dit.GuideAll, Solver: "dpm++2m", Steps: "3"}
	keys := map[string]bool{}
	for _, p := range []*Pipeline{plain, led} {
		for _, rescale := range []float64{0, 0.5} {
			of := r
			of.GuidanceRescale = rescale
			key, err := p.Key(of)
			if err != nil {
				t.Fatal(err)
			}
			keys[key] = true
		}
	}
	if len(keys) != 4 {
		t.Errorf("%d keys of 4 sets of pictures", len(keys))
	}
	of := r.WithDefaults()
	of.Guide = led.guide
	schedule, err := led.scheduleOf(of)
	if err != nil {
		t.Fatal(err)
	}
	schedule.Times = []float64{999, 600, 200}
	if err := led.Keep(t.Context(), schedule); err != nil {
		t.Fatal(err)
	}
	if got, err := led.Searched(r); err != nil || got.Timesteps != "999,600,200" {
		t.Errorf("times %q, error %v", got.Timesteps, err)
	}
	if _, err := plain.Searched(r); err == nil || !strings.Contains(err.Error(), ", away from ") {
		t.Errorf("without the guide: %v", err)
	}
}

// What a guide has to have in common with the model.
func TestGuideRefused(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m := conditioned(t, s, dit.AdaLNZero, dit.OnClass)
		small := func(change func(c *dit.Config)) *dit.DiT {
			cfg := m.Config()
			change(&cfg)
			guide, err := dit.New(s, cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nn.Close(guide) })
			return guide
		}
		text := weaker(t, s, dit.OnText)
		for want, guide := range map[string]*dit.DiT{
			"":                                small(func(c *dit.Config) { c.HiddenSize, c.Depth = 8, 2 }),
			"a model of 4 classes, want 3":    small(func(c *dit.Config) { c.NumClasses++ }),
			"of latents of 4x8x8, want 4x4x8": small(func(c *dit.Config) { c.InputSize = 8 }),
			"of latents of 3x4x8, want 4x4x8": small(func(c *dit.Config) { c.InChannels = 3 }),
			"the guide is a model of " + text.Config().Conditions() + ", want one of ": text,
		} {
			r := requestOf(s, m.Config())
			r.Guide = guide
			_, err := newDrawing(m, r)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("error %v, want %q", err, want)
			}
		}
		return nil
	})
}
