package sampling

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// How steps are made.
type how struct{ captured, table bool }

// drawnHow draws the batches of r.
func drawnHow(t *testing.T, s *torch.Scope, m *dit.DiT, r Request, h how) (batches [][]byte) {
	t.Helper()
	d, err := newDrawing(m, r)
	if err != nil {
		t.Fatal(err)
	}
	if d.capture = h.captured; !h.table {
		d.room = 0
	}
	err = d.run(context.Background(), s, func(_ *torch.Scope, _ int, x *torch.Tensor) error {
		batches = append(batches, x.Bytes())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return batches
}

// everyDesign calls f with a request for each block, condition, solver and scale.
func everyDesign(t *testing.T, f func(s *torch.Scope, name string, m *dit.DiT, r Request)) {
	for _, block := range dit.BlockKinds() {
		for _, condition := range dit.ConditionKinds() {
			torchtest.Run(t, func(s *torch.Scope) error {
				m := conditioned(t, s, block, condition)
				s = s.NoGrad()
				for _, name := range ownSolvers {
					for _, scale := range []float64{1, 3} {
						r := requestOf(s, m.Config())
						r.Steps, r.Solver = "5", name
						if condition != dit.OnNothing {
							r.CFGScale = scale
						}
						f(s, fmt.Sprintf("%s, %s, %s, scale %v", block, condition, name, r.CFGScale), m, r)
					}
				}
				return nil
			})
		}
	}
}

// Steps by a graph give the bits of those without, also in a second batch of the same size. A last, shorter batch comes
// after. Where nothing is in the way nobody is warned.
func TestCapturedStepsEqualUncaptured(t *testing.T) {
	everyDesign(t, func(s *torch.Scope, name string, m *dit.DiT, r Request) {
		if r.Labels != nil {
			r.Labels = append(r.Labels, 1, 0)
		}
		if r.Captions != nil {
			r.Captions = append(r.Captions, r.Captions[1], r.Captions[0])
		}
		if r.NumSamples > 0 {
			r.NumSamples = 5
		}
		r.BatchSize = 2
		r.Warn = func(text string) { t.Errorf("%s: %s", name, text) }
		for _, table := range []bool{false, true} {
			want, got := drawnHow(t, s, m, r, how{false, table}), drawnHow(t, s, m, r, how{true, table})
			if len(got) != 3 || !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("%s, table %v: captured steps give other latents", name, table)
			}
		}
	})
}

// With libtorch's generator a graph takes noise that is drawn outside of it.
func TestCapturedStepsTakeTorchNoise(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		r := Request{Labels: []int{2, 7}, CFGScale: 4, Steps: "6", Seed: 11, RNG: "torch",
			Warn: func(text string) { t.Error(text) }}
		if !slices.EqualFunc(drawnHow(t, s, m, r, how{captured: true}), drawnHow(t, s, m, r, how{}), bytes.Equal) {
			t.Error("captured steps give other latents")
		}
		return nil
	})
}

// From the second step on nothing goes between host and device, with a graph and without.
func TestStepsLeaveTheHostAlone(t *testing.T) {
	everyDesign(t, func(s *torch.Scope, name string, m *dit.DiT, r Request) {
		for _, h := range []how{{}, {table: true}, {captured: true}, {true, true}} {
			var before torch.Traffic
			r.Progress = func(done, _ int) {
				now := torch.Counts()
				// The first step comes after the uploads of its batch; the second one is compared where it is captured.
				if traffic := now.Sub(before); done > 2 && traffic != (torch.Traffic{}) {
					t.Errorf("%s, %+v: step %d has %+v", name, h, done, traffic)
				}
				before = now
			}
			drawnHow(t, s, m, r, h)
		}
	})
}

// A stubborn solver adds something of the host to each step.
type stubborn struct {
	diffusion.Solver
	change func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
}

func (b stubborn) Step(s *torch.Scope, model diffusion.Denoiser, x diffusion.State, noise, k *torch.Tensor,
) diffusion.State {
	return diffusion.State{b.change(s, b.Solver.Step(s, model, x, noise, k).X())}
}

// Solvers that a graph would freeze are found, and what cannot be captured is drawn without a graph.
func TestWhatCannotBeCaptured(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		var v *series
		calls := 0.0
		for name, c := range map[string]struct {
			change  func(s *torch.Scope, x *torch.Tensor) *torch.Tensor
			warning string
			err     string
		}{
			"a number of each call": {func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				calls++
				return s.MulScalar(x, 1+calls/100)
			}, "a step by it gives other numbers", ""},
			"a number of each step": {func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				return s.MulScalar(x, 1+float64(v.made)/100)
			}, "", "only what persistent tensors hold may change"},
			"an upload": {func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				return s.Mul(x, torch.From(s, []float32{0.5}, 1))
			}, "From: called within a capture", ""},
		} {
			draw := func(captured bool) (x []byte, warnings []string, err error) {
				calls = 0
				done := func(int) {
					if !captured && calls == 2 {
						calls++ // as the graph does, which is tried in the second step
					}
				}
				d, err := newDrawing(m, Request{Labels: []int{2, 7}, CFGScale: 4, Steps: "6", BatchSize: 1,
					Warn: func(text string) { warnings = append(warnings, text) }})
				if err != nil {
					t.Fatal(err)
				}
				d.capture = captured
				noise, err := newSource(s, d, 1)
				if err != nil {
					t.Fatal(err)
				}
				v = newSeries(s, d, stubborn{d.solver(s), c.change}, nil, noise, 1)
				defer v.close()
				err = s.Try(func(s *torch.Scope) error {
					for lo := range 2 {
						last, err := v.draw(t.Context(), s, lo, done)
						if err != nil {
							return err
						}
						x = last.Bytes()
					}
					return nil
				})
				return x, warnings, err
			}
			want, warnings, err := draw(false)
			if err != nil || warnings != nil {
				t.Errorf("%s: uncaptured: %q, error %v", name, warnings, err)
			}
			got, warnings, err := draw(true)
			switch {
			case c.err != "":
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%s: error %v, want %q", name, err, c.err)
				}
			case err != nil:
				t.Errorf("%s: %v", name, err)
			case len(warnings) != 1 || !strings.Contains(warnings[0], c.warning) || v.graphs != [2]*torch.Graph{}:
				t.Errorf("%s: warned %q, want one with %q", name, warnings, c.warning)
			case !bytes.Equal(got, want):
				t.Errorf("%s: other latents than without a try", name)
			}
		}
		return nil
	})
}

// A step that fails is the error of its batch, and one that fails by the graph alone changes nothing: no step is lost.
func TestFailureOfAnyCall(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		draw := func(captured bool, failing int) (x []byte, warnings []string, err error) {
			d, err := newDrawing(m, Request{Labels: []int{2, 7}, CFGScale: 4, Steps: "5",
				Warn: func(text string) { warnings = append(warnings, text) }})
			if err != nil {
				t.Fatal(err)
			}
			d.capture = captured
			noise, err := newSource(s, d, 2)
			if err != nil {
				t.Fatal(err)
			}
			calls := 0
			solver := stubborn{d.solver(s), func(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
				if calls++; calls == failing {
					s.Add(s.Zeros(torch.Float32, 2), s.Zeros(torch.Float32, 3))
				}
				return x
			}}
			v := newSeries(s, d, solver, nil, noise, 2)
			defer v.close()
			err = s.Try(func(s *torch.Scope) error {
				last, err := v.draw(t.Context(), s, 0, func(int) {})
				if err == nil {
					x = last.Bytes()
				}
				return err
			})
			return x, warnings, err
		}
		want, _, err := draw(false, 0)
		if err != nil {
			return err
		}
		for failing := 1; failing <= 5; failing++ {
			if _, _, err := draw(false, failing); err == nil || !strings.Contains(err.Error(), "must match") {
				t.Errorf("uncaptured call %d fails: error %v", failing, err)
			}
		}
		// The calls are those of two steps, of the graph, and on the CPU of its replays.
		for failing := 1; failing <= 6; failing++ {
			got, warnings, err := draw(true, failing)
			if failing == 3 {
				if err != nil || len(warnings) != 1 || !bytes.Equal(got, want) {
					t.Errorf("the graph fails: error %v, warned %q, same latents: %v", err, warnings,
						bytes.Equal(got, want))
				}
			} else if (failing < 3 || !s.Device().IsCUDA()) && (err == nil || warnings != nil) {
				t.Errorf("call %d fails: error %v, warned %q", failing, err, warnings)
			}
		}
		return nil
	})
}

// A last, shorter batch has a graph of its own where it has many steps. Making one reads back.
func TestGraphOfTheLastBatch(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		for _, steps := range []int{49, 50} {
			var before torch.Traffic
			var captured []int
			r := Request{Labels: []int{2, 7, 1}, CFGScale: 4, Steps: fmt.Sprint(steps), BatchSize: 2}
			r.Progress = func(done, _ int) {
				now := torch.Counts()
				if now.Sub(before).ReadBacks > 0 && done%steps > 1 {
					captured = append(captured, done)
				}
				before = now
			}
			drawnHow(t, s, m, r, how{captured: true})
			want := []int{2}
			if steps == 50 {
				want = append(want, steps+2)
			}
			if !slices.Equal(captured, want) {
				t.Errorf("%d steps: steps %v are captured, want %v", steps, captured, want)
			}
		}
		return nil
	})
}

// Modulations that are computed before give the same pictures but for rounding, and those of a picture do not depend on
// which other classes there are, nor on those that were drawn before.
func TestTableOfModulations(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		r := Request{Labels: []int{0, 3, 9, 5}, CFGScale: 4, Steps: "20", Seed: 5, BatchSize: 2}
		want, got := drawnHow(t, s, m, r, how{}), drawnHow(t, s, m, r, how{table: true})
		if slices.EqualFunc(got, want, bytes.Equal) {
			t.Error("there is no table")
		}
		for b := range want {
			x, y := s.FromBytes(torch.Float32, got[b], 2*4*8*8), s.FromBytes(torch.Float32, want[b], 2*4*8*8)
			// Twenty guided steps multiply what products of another size round.
			if e := torchtest.Relative(s, x, y); !(e < 1e-4) {
				t.Errorf("batch %d: relative error %.2g", b, e)
			}
		}
		half := len(got[1]) / 2
		for _, labels := range [][]int{{1, 2, 9, 5}, {9, 9, 9, 6}, {5, 9, 9, 9}} {
			other := r
			other.Labels = labels
			if !bytes.Equal(drawnHow(t, s, m, other, how{table: true})[1][:half], got[1][:half]) {
				t.Errorf("picture 2 of label 9 is another one among labels %v", labels)
			}
		}
		return nil
	})
}

// Each batch whose classes fit has the table, whatever the others are. A byte counts.
func TestRoomForTheTable(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		r := Request{Labels: []int{0, 3, 9, 9, 3, 3, 1}, CFGScale: 4, Steps: "6", Seed: 5, BatchSize: 2}
		class := 6 * m.ModulationBytes()
		for _, c := range []struct {
			room  int64
			table [4]bool
		}{{3 * class, [4]bool{true, true, true, true}}, {3*class - 1, [4]bool{false, true, true, true}},
			{2*class - 1, [4]bool{}}} {
			d, err := newDrawing(m, r)
			if err != nil {
				return err
			}
			d.room = c.room
			modulations := newTable(s, d, d.solver(s))
			for b, want := range c.table {
				if got := modulations.forBatch(d.classes(d.bounds(b))) != nil; got != want {
					t.Errorf("%d bytes: batch %d has a table: %v, want %v", c.room, b, got, want)
				}
			}
			together, err := Latents(t.Context(), s, m, r)
			if err != nil {
				return err
			}
			var parts []*torch.Tensor
			err = d.run(t.Context(), s, func(_ *torch.Scope, _ int, x *torch.Tensor) error {
				parts = append(parts, s.Clone(x))
				return nil
			})
			if err != nil {
				return err
			}
			if e := torchtest.Relative(s, s.Cat(parts, 0), together); !(e < 1e-4) {
				t.Errorf("%d bytes: relative error %.2g", c.room, e)
			}
		}
		return nil
	})
}

// A solver that asks twice in a step has rows for both times.
func TestTableOfTwoQuestions(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		d, err := newDrawing(m, Request{Labels: []int{2, 7}, CFGScale: 4, Steps: "6", Solver: "ddim"})
		if err != nil {
			return err
		}
		solver := twice{d.solver(s), s.Full(3, torch.Int64, 1)}
		var drawn [2]*torch.Tensor
		for i, modulations := range []*table{nil, newTable(s, d, solver)} {
			noise, err := newSource(s, d, 2)
			if err != nil {
				return err
			}
			v := newSeries(s, d, solver, modulations, noise, 2)
			if drawn[i], err = v.draw(t.Context(), s, 0, func(int) {}); err != nil {
				return err
			}
		}
		if e := torchtest.Relative(s, drawn[1], drawn[0]); !(e < 1e-5) || math.IsNaN(e) {
			t.Errorf("relative error %.2g", e)
		}
		return nil
	})
}

// Twice asks the model again, three steps of training later, and takes the mean.
type twice struct {
	diffusion.Solver
	later *torch.Tensor
}

func (w twice) Step(s *torch.Scope, model diffusion.Denoiser, x diffusion.State, noise, k *torch.Tensor,
) diffusion.State {
	return w.Solver.Step(s, func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		return s.MulScalar(s.Add(model(s, x, t), model(s, x, s.Add(t, w.later))), 0.5)
	}, x, noise, k)
}
