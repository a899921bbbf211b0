package sampling

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// trained loads the small DiT of the golden file, which takes noise for noise: with an untrained one
// latents grow a hundredfold, and errors hide.
func trained(t *testing.T, s *torch.Scope) (*torchtest.Goldens, *dit.DiT) {
	t.Helper()
	g := torchtest.Open(t, "../testdata/sample.safetensors")
	cfg := dit.Config{MLPRatio: 4, ClassDropoutProb: 0.1}
	g.Config("model", &cfg)
	m, err := dit.New(s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nn.Close(m) })
	if err := nn.Load(s, m, g.Prefix("model."), false); err != nil {
		t.Fatal(err)
	}
	return g, m
}

func latentsOf(t *testing.T, s *torch.Scope, m *dit.DiT, r Request) *torch.Tensor {
	t.Helper()
	x, err := Latents(context.Background(), s, m, r)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// given is noise that was drawn before.
type given struct {
	x     *torch.Tensor
	noise []*torch.Tensor // by step
}

func (n given) start(*torch.Scope, int) *torch.Tensor              { return n.x }
func (n given) prepare(*torch.Scope)                               {}
func (n given) step(_ *torch.Scope, k *torch.Tensor) *torch.Tensor { return n.noise[int(k.Item())] }

// drawnBy draws the pictures of r, in one batch, by a solver and from noise of a test. Nil stands for those of r.
func drawnBy(t *testing.T, s *torch.Scope, m *dit.DiT, r Request, solver diffusion.Solver, noise source) *torch.Tensor {
	t.Helper()
	d, err := newDrawing(m, r)
	if err != nil {
		t.Fatal(err)
	}
	own := d.solver(s)
	if solver == nil {
		solver = own
	}
	if noise == nil {
		if noise, err = newSource(s, d, d.Len()); err != nil {
			t.Fatal(err)
		}
	}
	x, err := newSeries(s, d, solver, newTable(s, d, own), noise, d.Len()).draw(t.Context(), s, 0, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// A checkedSolver shows what each step makes of x.
type checkedSolver struct {
	diffusion.Solver
	check func(s *torch.Scope, x *torch.Tensor)
}

func (c checkedSolver) Step(s *torch.Scope, model diffusion.Denoiser, x diffusion.State, noise, k *torch.Tensor,
) diffusion.State {
	x = c.Solver.Step(s, model, x, noise, k)
	c.check(s, x.X())
	return x
}

// Eight guided steps on the original's noise, after each of which the latents equal the original's.
func TestSamplesEqualOriginal(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		g, m := trained(t, s)
		s = s.NoGrad()
		var scale float64
		g.Config("cfg_scale", &scale)
		n := given{x: g.Tensor(s, "z")}
		for k := range 8 {
			// The original draws for both halves of the guided batch; the second is not used.
			n.noise = append(n.noise, s.Narrow(g.Tensor(s, fmt.Sprintf("%d.noise", k+1)), 0, 0, 2))
		}
		for _, c := range []struct{ name, solver, key string }{{"ancestral", "ddpm", "respacing"},
			{"ddim", "ddim", "ddim"}} {
			var spec string
			g.Config(c.key, &spec)
			process, err := gaussian.New(spec)
			if err != nil {
				return err
			}
			v := (&plan{respaced: process, ddim: c.solver == ddim}).solver(s)
			k := 0
			checked := checkedSolver{v, func(s *torch.Scope, x *torch.Tensor) {
				k++
				// The original in float32 is up to 1.2e-5 from itself in float64: errors of one step pass
				// through the model into the next, and guidance takes them fourfold.
				want := s.Narrow(g.Tensor(s, fmt.Sprintf("%s.%d", c.name, k)), 0, 0, 2)
				if e := torchtest.Relative(s, x, want); !(e <= 5e-5) {
					t.Errorf("%s: relative error %.2g after step %d", c.name, e, k)
				}
			}}
			r := Request{Labels: []int{2, 7}, CFGScale: scale, Steps: spec, Solver: c.solver}
			x := drawnBy(t, s, m, r, checked, n)
			if k != 8 {
				t.Errorf("%s: %d steps, want 8", c.name, k)
			}
			if e := torchtest.Relative(s, x, s.Narrow(g.Tensor(s, c.name+".8"), 0, 0, 2)); !(e <= 5e-5) {
				t.Errorf("%s: relative error %.2g of the result", c.name, e)
			}
		}
		return nil
	})
}

func TestSameSeedSameLatents(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		for _, rng := range []string{"image", "torch"} {
			r := Request{Labels: []int{0, 3, 9}, CFGScale: 4, Steps: "6", Seed: 5, RNG: rng}
			first := latentsOf(t, s, m, r)
			if !bytes.Equal(first.Bytes(), latentsOf(t, s, m, r).Bytes()) {
				t.Errorf("%s: two samples of one seed differ", rng)
			}
			r.Seed++
			if torchtest.Relative(s, latentsOf(t, s, m, r), first) < 0.1 {
				t.Errorf("%s: another seed gives the same picture", rng)
			}
		}
		return nil
	})
}

// The noise of a picture is its own: alone, first, last, in whatever batch.
func TestPictureDoesNotDependOnItsBatch(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		r := Request{Labels: []int{0, 3, 9, 5, 10}, CFGScale: 4, Steps: "6", Seed: 5}
		all := latentsOf(t, s, m, r)
		// Matrix products of another size round otherwise, which six guided steps multiply.
		const limit = 1e-4
		for _, size := range []int{1, 2, 3, 4, 100} {
			r := r
			r.BatchSize = size
			if e := torchtest.Relative(s, latentsOf(t, s, m, r), all); !(e <= limit) {
				t.Errorf("batch size %d: relative error %.2g", size, e)
			}
		}
		one := r
		one.Labels, one.First = r.Labels[3:4], 3
		if e := torchtest.Relative(s, latentsOf(t, s, m, one), s.Narrow(all, 0, 3, 1)); !(e <= limit) {
			t.Errorf("picture 3 alone: relative error %.2g", e)
		}
		sourceOf := func(r Request) (source, *torch.Tensor) {
			d, err := newDrawing(m, r)
			if err != nil {
				t.Fatal(err)
			}
			n, err := newSource(s, d, d.Len())
			if err != nil {
				t.Fatal(err)
			}
			return n, n.start(s, 0)
		}
		together, ofAll := sourceOf(r)
		alone, ofOne := sourceOf(one)
		for what, pair := range map[string][2]*torch.Tensor{
			"start":  {ofOne, ofAll},
			"step 4": {alone.step(s, torch.From(s, []int64{4}, 1)), together.step(s, torch.From(s, []int64{4}, 1))},
		} {
			if !bytes.Equal(pair[0].Bytes(), s.Contiguous(s.Narrow(pair[1], 0, 3, 1)).Bytes()) {
				t.Errorf("%s: the noise of picture 3 depends on the batch", what)
			}
		}
		// What the numbers are is part of what a seed means.
		want := make([]float32, 4*8*8)
		for what, c := range map[string]struct {
			tag, step uint32
			got       *torch.Tensor
		}{"start": {philox.TagStartNoise, 0, ofOne},
			"step 4": {philox.TagStepNoise, 4, alone.step(s, torch.From(s, []int64{4}, 1))}} {
			philox.Normals(want, 5, c.tag, c.step, 3)
			for i, v := range torch.Data[float32](c.got) {
				if math.Abs(float64(v-want[i])) > 1e-6 {
					t.Errorf("%s: noise %d is %v, want %v", what, i, v, want[i])
					break
				}
			}
		}
		return nil
	})
}

// RNG torch draws what the original's sample.py does: the latents, then for each step the noise of the
// doubled batch where there is guidance.
func TestTorchNoiseIsInTheOriginalsOrder(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		for _, scale := range []float64{4, 1} {
			r := Request{Labels: []int{2, 7}, CFGScale: scale, Steps: "6", Seed: 11, RNG: "torch"}
			gen, err := torch.NewGenerator(s.Device(), 11)
			if err != nil {
				return err
			}
			n := given{x: s.Randn(gen, 2, 4, 8, 8)}
			for range 6 {
				if scale == 1 {
					n.noise = append(n.noise, s.Randn(gen, 2, 4, 8, 8))
				} else {
					n.noise = append(n.noise, s.Narrow(s.Randn(gen, 4, 4, 8, 8), 0, 0, 2))
				}
			}
			want := drawnBy(t, s, m, r, nil, n)
			if !bytes.Equal(latentsOf(t, s, m, r).Bytes(), want.Bytes()) {
				t.Errorf("scale %v: the noise is not in the original's order", scale)
			}
		}
		return nil
	})
}

// counted counts the draws of a source.
type counted struct {
	source
	draws, prepared int
}

func (c *counted) prepare(s *torch.Scope) {
	c.prepared++
	c.source.prepare(s)
}

func (c *counted) start(s *torch.Scope, first int) *torch.Tensor {
	c.draws++
	return c.source.start(s, first)
}

func (c *counted) step(s *torch.Scope, k *torch.Tensor) *torch.Tensor {
	c.draws++
	return c.source.step(s, k)
}

// DDIM draws what it starts from and nothing else, DDPM once a step.
func TestOnlyNoiseThatIsUsedIsDrawn(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		for name, want := range map[string]int{"ddpm": 1 + 6, "ddim": 1} {
			for _, rng := range []string{rngImage, rngTorch} {
				r := Request{Labels: []int{2, 7}, CFGScale: 4, Steps: "6", Seed: 11, Solver: name, RNG: rng}
				d, err := newDrawing(m, r)
				if err != nil {
					return err
				}
				noise, err := newSource(s, d, 2)
				if err != nil {
					return err
				}
				n := &counted{source: noise}
				x := drawnBy(t, s, m, r, nil, n)
				if n.draws != want || n.prepared != want-1 {
					t.Errorf("%s, %s: %d draws, %d prepared, want %d", name, rng, n.draws, n.prepared, want)
				}
				if !bytes.Equal(x.Bytes(), latentsOf(t, s, m, r).Bytes()) {
					t.Errorf("%s, %s: counting changed the latents", name, rng)
				}
			}
		}
		return nil
	})
}

// Without guidance the model runs on the batch itself, so a model without null class will do.
func TestNoGuidanceIsTheModelItself(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		r := Request{Labels: []int{2, 7}, CFGScale: 1, Steps: "6", Seed: 3, Solver: "ddim"}
		process, err := gaussian.New("6")
		if err != nil {
			return err
		}
		y := torch.From(s, []int64{2, 7}, 2)
		calls := 0
		plain := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			calls++
			return m.Forward(s, x, t, dit.Condition{Labels: y})
		}
		x := torchtest.Normal(s, 3, 2, 4, 8, 8)
		ddim := gaussian.NewDDIM(s, process)
		for k := range int64(6) {
			x = ddim.Step(s, plain, ddim.Start(s, x), nil, torch.From(s, []int64{k, k}, 2)).X()
		}
		if !bytes.Equal(drawnHow(t, s, m, r, how{})[0], x.Bytes()) || calls != 6 {
			t.Error("scale 1 is not the plain model")
		}
		r.CFGScale = 0
		if !bytes.Equal(drawnHow(t, s, m, r, how{})[0], x.Bytes()) {
			t.Error("scale 0, the zero value, is not the plain model")
		}
		r.CFGScale = 4
		if torchtest.Relative(s, latentsOf(t, s, m, r), x) < 0.01 {
			t.Error("guidance changes nothing")
		}
		three := latentsOf(t, s, m, r)
		r.Guided = dit.GuideAll
		if torchtest.Relative(s, latentsOf(t, s, m, r), three) < 1e-3 {
			t.Error("guiding all channels is guiding three")
		}
		return nil
	})
}

func TestLatentsRefuses(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		cfg := m.Config()
		cfg.ClassDropoutProb = 0
		noNull, err := dit.New(s, cfg)
		if err != nil {
			return err
		}
		defer nn.Close(noNull)
		for _, c := range []struct {
			model *dit.DiT
			r     Request
			want  string
		}{
			{m, Request{}, "no labels"},
			{m, Request{Labels: []int{-1}}, "class label -1: the model has classes 0 to 9"},
			{m, Request{Labels: []int{0, 11}}, "class label 11"},
			{noNull, Request{Labels: []int{10}}, "class label 10"},
			{noNull, Request{Labels: []int{1}, CFGScale: 4}, "without dropping its condition"},
			{m, Request{Labels: []int{1}, CFGScale: math.NaN()}, "cfg-scale NaN"},
			{m, Request{Labels: []int{1}, CFGScale: math.Inf(1)}, "cfg-scale +Inf"},
			{m, Request{Labels: []int{1}, First: -1}, "first picture -1"},
			{m, Request{Labels: []int{1}, Solver: "euler"}, `solver "euler": the model predicts noise at DiT's ` +
				`1000 steps: want ddpm, ddim, dpm++1, `},
			{m, Request{Labels: []int{1}, Steps: "1001"}, "1001"},
			{m, Request{Labels: []int{1}, Steps: "0"}, "keeps no step"},
			{m, Request{Labels: []int{1}, Steps: "many"}, "many"},
			{m, Request{Labels: []int{1}, RNG: "dice"}, `rng "dice": want image, torch`},
			{m, Request{Labels: []int{1, 2}, RNG: "torch", BatchSize: 1},
				"batch-size 1: with rng torch all 2 pictures are drawn at once"},
		} {
			if _, err := Latents(context.Background(), s, c.model, c.r); err == nil ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: error %v, want %q", c.r, err, c.want)
			}
		}
		if _, err := Latents(context.Background(), s, noNull, Request{Labels: []int{1}, Steps: "2"}); err != nil {
			t.Errorf("a model without null class and without guidance: %v", err)
		}
		if _, err := Latents(context.Background(), s, m, Request{Labels: []int{10}, Steps: "2"}); err != nil {
			t.Errorf("the null class: %v", err)
		}
		return nil
	})
}

func TestProgressAndCancel(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		var seen [][2]int
		r := Request{Labels: []int{1, 2, 3}, BatchSize: 2, Steps: "3",
			Progress: func(done, total int) { seen = append(seen, [2]int{done, total}) }}
		latentsOf(t, s, m, r)
		if fmt.Sprint(seen) != "[[1 6] [2 6] [3 6] [4 6] [5 6] [6 6]]" {
			t.Errorf("progress %v", seen)
		}
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(context.Background())
		steps := 0
		r.Progress = func(done, total int) {
			if steps++; done == 2 {
				cancel(why)
			}
		}
		live := torch.Live()
		err := s.Try(func(s *torch.Scope) error { _, err := Latents(ctx, s, m, r); return err })
		if !errors.Is(err, why) || steps != 2 {
			t.Errorf("cancelled in step 2: error %v after %d steps", err, steps)
		}
		if n := torch.Live(); n != live {
			t.Errorf("%d tensors live after cancelling, %d before", n, live)
		}
		if _, err := Latents(ctx, s, m, r); !errors.Is(err, why) || steps != 2 {
			t.Errorf("cancelled before the start: error %v after %d steps", err, steps)
		}
		return nil
	})
}

// A step frees what it made: the number of live tensors does not depend on how many there were.
func TestStepsKeepNothing(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		live := map[int]int64{}
		r := Request{Labels: []int{1}, CFGScale: 4, Steps: "20",
			Progress: func(done, _ int) { live[done] = torch.Live() }}
		latentsOf(t, s, m, r)
		if live[3] != live[20] {
			t.Errorf("%d tensors live after step 3, %d after step 20", live[3], live[20])
		}
		return nil
	})
}
