package sampling

import (
	"context"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// conditioned is a model whose output its condition decides, of latents that are not square.
func conditioned(t *testing.T, s *torch.Scope, block dit.BlockKind, condition dit.ConditionKind) *dit.DiT {
	cfg := dit.Config{InputSize: 4, InputWidth: 8, PatchSize: 2, InChannels: 4, HiddenSize: 16, Depth: 1, NumHeads: 2,
		MLPRatio: 2, ClassDropoutProb: 0.1, LearnSigma: true, Block: block}
	cfg.SetCondition(condition, 3, 6, 5)
	m, err := dit.New(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nn.Close(m) })
	for i, p := range nn.List(m) {
		if err := torchtest.PhiloxWeights(p.Tensor, i, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// caption makes states that are a function of n.
func caption(s *torch.Scope, n int64, length int) Caption {
	x := s.PhiloxNormal(3, 0, s.Zeros(torch.Int64, 1), torch.From(s, []int64{n}, 1), 5, 6)
	return Caption{torch.Data[float32](x), length}
}

// requestOf asks for three pictures under the condition.
func requestOf(s *torch.Scope, cfg dit.Config) Request {
	r := Request{Steps: "3", Seed: 4, CFGScale: 3, Guided: dit.GuideAll}
	if cfg.HasClass() {
		r.Labels = []int{2, 0, 2}
	}
	if cfg.HasText() {
		r.Captions = []Caption{caption(s, 1, 5), caption(s, 2, 2), caption(s, 1, 5)}
		r.Null = caption(s, 0, 1)
	}
	if cfg.Condition == dit.OnNothing {
		r.NumSamples, r.CFGScale = 3, 1
	}
	return r
}

// The guided noise of the first step is put together from single forward passes.
func TestGuidanceOfEachCondition(t *testing.T) {
	for _, block := range dit.BlockKinds() {
		for _, condition := range dit.ConditionKinds() {
			torchtest.Run(t, func(s *torch.Scope) error {
				m := conditioned(t, s, block, condition)
				s = s.NoGrad()
				r := requestOf(s, m.Config())
				d, err := newDrawing(m, r)
				if err != nil {
					return err
				}
				noise, err := newSource(s, d, 2)
				if err != nil {
					return err
				}
				v := newSeries(s, d, d.solver(s), nil, noise, 2)
				v.begin(s, 1) // pictures 1 and 2
				x, steps := torchtest.Normal(s, 1, 2, 4, 4, 8), torch.From(s, []int64{500, 500}, 2)
				got := v.denoiser()(s, x, steps)
				for i := range 2 {
					one := func(x *torch.Tensor) *torch.Tensor { return s.Narrow(x, 0, i, 1) }
					forward := func(label int, c Caption) *torch.Tensor {
						cond := dit.Condition{Labels: torch.From(s, []int64{int64(label)}, 1)}
						if c.Length > 0 { // without padding
							cond.Tokens = torch.From(s, c.States[:6*c.Length], 1, c.Length, 6)
						}
						return m.Forward(s, one(x), one(steps), cond)
					}
					label, c := 0, Caption{}
					if r.Labels != nil {
						label = r.Labels[1+i]
					}
					if r.Captions != nil {
						c = r.Captions[1+i]
					}
					want := forward(label, c)
					if d.guided() {
						null := forward(m.Config().NullClass(), r.Null)
						eps, away := s.Narrow(want, 1, 0, 4), s.Narrow(null, 1, 0, 4)
						want = s.Cat([]*torch.Tensor{s.Add(away, s.MulScalar(s.Subtract(eps, away), 3)),
							s.Narrow(want, 1, 4, 4)}, 1)
					}
					if e := torchtest.Relative(s, one(got), want); !(e < 1e-5) {
						t.Errorf("%s, %s: picture %d, relative error %.2g", block, condition, 1+i, e)
					}
				}
				return nil
			})
		}
	}
}

// The pictures of a request are what they are in any batch, and follow their condition.
func TestLatentsOfEachCondition(t *testing.T) {
	for _, condition := range dit.ConditionKinds() {
		torchtest.Run(t, func(s *torch.Scope) error {
			m := conditioned(t, s, dit.AdaLNZero, condition)
			s = s.NoGrad()
			r := requestOf(s, m.Config())
			all := latentsOf(t, s, m, r)
			if got := all.Shape(); got[0] != 3 || got[2] != 4 || got[3] != 8 {
				t.Fatalf("%s: latents of shape %v", condition, got)
			}
			r.BatchSize = 2
			if e := torchtest.Relative(s, latentsOf(t, s, m, r), all); !(e < 1e-4) {
				t.Errorf("%s: relative error %.2g in batches of 2", condition, e)
			}
			if condition == dit.OnNothing {
				return nil
			}
			if m.Config().HasText() {
				r.Null = caption(s, 7, 4)
				if e := torchtest.Relative(s, latentsOf(t, s, m, r), all); !(e > 0.01) {
					t.Errorf("%s: a negative prompt changes the latents by %.2g", condition, e)
				}
				r.Null, r.Captions[0] = caption(s, 0, 1), caption(s, 9, 3)
			}
			if m.Config().HasClass() {
				r.Labels[0] = 1
			}
			other := latentsOf(t, s, m, r)
			if e := torchtest.Relative(s, s.Narrow(other, 0, 0, 1), s.Narrow(all, 0, 0, 1)); !(e > 0.01) {
				t.Errorf("%s: another condition changes the picture by %.2g", condition, e)
			}
			if e := torchtest.Relative(s, s.Narrow(other, 0, 1, 2), s.Narrow(all, 0, 1, 2)); !(e < 1e-4) {
				t.Errorf("%s: the condition of one picture changes others by %.2g", condition, e)
			}
			return nil
		})
	}
}

func TestRequestsOfAnotherCondition(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		text, both, none, class := conditioned(t, s, dit.AdaLNZero, dit.OnText),
			conditioned(t, s, dit.AdaLNZero, dit.OnTextAndClass),
			conditioned(t, s, dit.AdaLNZero, dit.OnNothing), conditioned(t, s, dit.AdaLNZero, dit.OnClass)
		good := requestOf(s, text.Config())
		change := func(f func(*Request)) Request { r := good; f(&r); return r }
		for _, c := range []struct {
			m    *dit.DiT
			r    Request
			want string
		}{
			{text, Request{}, "no captions"},
			{text, change(func(r *Request) { r.Labels = []int{1} }),
				"class labels for a model of text of 5 tokens of width 6"},
			{text, change(func(r *Request) { r.Null = Caption{} }),
				"the states of the empty caption, or of a negative prompt, are missing"},
			{text, change(func(r *Request) { r.Captions = []Caption{{make([]float32, 29), 5}} }),
				"caption of 29 numbers, 5 tokens: the model takes 5 tokens of width 6"},
			{text, change(func(r *Request) { r.Captions = []Caption{caption(s, 1, 6)} }), "6 tokens"},
			{text, change(func(r *Request) { r.Captions = []Caption{caption(s, 1, 0)} }), "0 tokens"},
			{text, change(func(r *Request) { r.NumSamples = 9 }),
				"9 pictures, the number is that of labels or captions"},
			{both, good, "no labels"},
			{both, change(func(r *Request) { r.Labels = []int{1} }), "1 label and 3 captions"},
			{class, change(func(r *Request) { r.Labels = []int{1} }), "captions for a model of 3 classes"},
			{none, Request{}, "0 pictures"},
			{none, Request{NumSamples: 2, CFGScale: 2}, "trained without dropping its condition"},
			{none, Request{Labels: []int{0}}, "class labels for a model of no condition"},
		} {
			if _, err := Latents(context.Background(), s, c.m, c.r); err == nil ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		}
		return nil
	})
}
