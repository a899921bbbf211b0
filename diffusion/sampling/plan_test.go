package sampling

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Steps outside of the interval are not guided, whatever the model is conditioned on and however steps are made.
func TestGuidanceInterval(t *testing.T) {
	everyDesign(t, func(s *torch.Scope, name string, m *dit.DiT, r Request) {
		if !r.guided() {
			return
		}
		r.Steps = "6"
		draw := func(interval [2]float64, scale float64, h how) [][]byte {
			r := r
			r.GuidanceInterval, r.CFGScale = interval, scale
			return drawnHow(t, s, m, r, h)
		}
		for _, table := range []bool{false, true} {
			h := how{false, table}
			all := draw([2]float64{}, r.CFGScale, h)
			if !slices.EqualFunc(draw([2]float64{0, 999}, r.CFGScale, h), all, bytes.Equal) {
				t.Errorf("%s: an interval of all times changes the latents", name)
			}
			some := draw([2]float64{300, 700}, r.CFGScale, h)
			for i, plain := range draw([2]float64{}, 1, h) {
				if bytes.Equal(some[i], all[i]) || bytes.Equal(some[i], plain) {
					t.Errorf("%s: guidance from 300 to 700 is that of all or no steps", name)
				}
			}
			if !slices.EqualFunc(draw([2]float64{300, 700}, r.CFGScale, how{true, table}), some, bytes.Equal) {
				t.Errorf("%s: steps by graphs give other latents", name)
			}
		}
		early := r
		early.Steps, early.GuidanceInterval = "2", [2]float64{998, 999}
		late := early
		late.GuidanceInterval = [2]float64{0, 500}
		if slices.EqualFunc(drawnHow(t, s, m, early, how{}), drawnHow(t, s, m, late, how{}), bytes.Equal) {
			t.Errorf("%s: guidance of the first step is that of the second", name)
		}
	})
}

// Every solver that is listed for a process draws, the same by a graph.
func TestEverySolverDraws(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		for _, p := range []dit.Process{{}, {Objective: "velocity", Path: "linear"},
			{Objective: "noise", Path: "vp"}, {Objective: "velocity", Path: "gvp", NoiseAtOne: true, Shift: 2}} {
			seen := map[string]string{}
			for _, name := range Solvers(p) {
				var done []int
				r := Request{Labels: []int{2, 7, 1}, BatchSize: 2, CFGScale: 1.5, Solver: name, Process: &p,
					Progress: func(k, total int) { done = append(done, k, total) }}
				if name != "dopri5" {
					r.Steps = "6" // of fewer none is of the third order
				}
				steps, err := r.NumSteps()
				if err != nil {
					t.Errorf("%v, %s: %v", p, name, err)
					continue
				}
				got := drawnHow(t, s, m, r, how{false, true})
				if n := len(done); n == 0 || done[n-1] != steps || done[n-2] != steps {
					t.Errorf("%v, %s: progress %v, want %d steps", p, name, done, steps)
				}
				// Of the first order they are one method, as Euler is on the linear path.
				alike := slices.Contains([]string{"dpm++1", "deis1", "euler"}, name)
				if before, ok := seen[string(got[0])]; ok && !alike {
					t.Errorf("%v, %s draws what %s draws", p, name, before)
				}
				seen[string(got[0])] = name
				if !slices.EqualFunc(drawnHow(t, s, m, r, how{true, true}), got, bytes.Equal) {
					t.Errorf("%v, %s: steps by a graph give other latents", p, name)
				}
			}
		}
		return nil
	})
}

// The grids of DiT's steps are where they say.
func TestTimesteps(t *testing.T) {
	for _, c := range []struct {
		solver, steps, grid string
		want                []float64
	}{
		{"ddim", "4", "", []float64{999, 666, 333, 0}},
		{"ddim", "ddim4", "", []float64{750, 500, 250, 0}},
		{"dpm++2m", "4", "respaced", []float64{999, 666, 333, 0}},
		{"dpm++2m", "4", "", []float64{999, 749, 500, 250}},
		{"unipc2", "4", "trailing", []float64{999, 749, 499, 249}},
		{"ddim", "4", "leading", []float64{750, 500, 250, 0}},
	} {
		r := Request{Solver: c.solver, Steps: c.steps, Timesteps: c.grid}
		r.setDefaults()
		p, err := r.plan()
		if err != nil || !slices.Equal(p.starts, c.want) {
			t.Errorf("%s %s %s: %v, error %v, want %v", c.solver, c.steps, c.grid, p.starts, err, c.want)
		}
	}
}

// The latents of each batch come before its pictures.
func TestLatentsOfARequest(t *testing.T) {
	vaeDir, _ := newVAE(t, 4, 1)
	ckpt := newCheckpoint(t, func(i *dit.Info) { i.Process = dit.Process{Objective: "velocity", Path: "linear"} })
	p, err := Open(torchtest.Device(t), ckpt, Options{VAE: vaeDir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var got []float32
	var shapes []string
	r := Request{Labels: []int{1, 2, 3}, BatchSize: 2, Steps: "3", Solver: "euler",
		Latents: func(x []float32, shape []int) { got, shapes = append(got, x...), append(shapes, fmt.Sprint(shape)) }}
	if _, err := p.Sample(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	r.Process = &p.info.Process
	torchtest.Run(t, func(s *torch.Scope) error {
		want := torch.Data[float32](latentsOf(t, s.NoGrad(), p.model, r))
		if !slices.Equal(got, want) || !slices.Equal(shapes, []string{"[2 4 8 8]", "[1 4 8 8]"}) {
			t.Errorf("%d numbers of %v are not the %d of Latents", len(got), shapes, len(want))
		}
		return nil
	})
	one, err := p.Key(r)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(r *Request){
		"solver": func(r *Request) { r.Solver = "heun" }, "grid": func(r *Request) { r.Timesteps = "karras" },
		"interval": func(r *Request) { r.CFGScale, r.GuidanceInterval = 4, [2]float64{0, 0.5} },
	} {
		r := r
		change(&r)
		if other, err := p.Key(r); err != nil || other == one {
			t.Errorf("another %s has the same key, error %v", what, err)
		}
	}
	torch.SetFused(false) // which rounds otherwise
	defer torch.SetFused(true)
	if other, err := p.Key(r); err != nil || other == one {
		t.Errorf("without fused operations it has the same key, error %v", err)
	}
}
