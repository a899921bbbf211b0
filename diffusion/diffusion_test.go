package diffusion_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// A twoStep solver asks about two times in a step, 10k and 10k + 5, and remembers the samples of the step before, which
// it adds.
type twoStep struct{ steps int }

func (v twoStep) Steps() int   { return v.steps }
func (v twoStep) Random() bool { return true }

func (v twoStep) Start(s *torch.Scope, noise *torch.Tensor) diffusion.State {
	return diffusion.State{noise, noise}
}

func (v twoStep) Step(s *torch.Scope, model diffusion.Denoiser, x diffusion.State, noise, k *torch.Tensor,
) diffusion.State {
	t := s.MulScalar(k, 10)
	y := s.Add(model(s, x.X(), t), model(s, x.X(), s.AddScalar(t, 5)))
	return diffusion.State{s.Add(s.Add(y, x[1]), noise), x.X()}
}

// sumOf answers with x + t.
func sumOf(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
	return s.Add(x, s.Reshape(s.To(t, torch.Float32), -1, 1, 1, 1))
}

// stepNoise is 1000 (k + 1) for all samples.
func stepNoise(s *torch.Scope, k *torch.Tensor) *torch.Tensor {
	return s.MulScalar(s.Expand(s.Reshape(s.To(s.AddScalar(k, 1), torch.Float32), 1, 1, 1, 1), 2, 1, 1, 1), 1000)
}

// samplesBy does on the host what the solver makes of a sample.
func samplesBy(steps int, x float32) []float32 {
	before := x
	drawn := []float32{x}
	for k := range steps {
		x, before = 2*x+float32(20*k+5)+before+float32(1000*(k+1)), x
		drawn = append(drawn, x)
	}
	return drawn
}

func TestDrawing(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		const steps = 4
		noise := torch.From(s, []float32{1, -2}, 2, 1, 1, 1)
		first, second := samplesBy(steps, 1), samplesBy(steps, -2)
		d := diffusion.Begin(s, twoStep{steps}, noise)
		x, k, state := d.X(), d.K, d.State()
		if len(state) != 3 {
			t.Fatalf("a state of %d tensors, want the step, the samples and those before", len(state))
		}
		s.Zero_(noise) // the drawing has copies
		check := func(what string, number int) {
			t.Helper()
			if got, want := torch.Data[float32](x), []float32{first[number], second[number]}; !slices.Equal(got, want) {
				t.Errorf("%s: samples %v, want %v", what, got, want)
			}
			if got := k.Item(); got != float64(number) {
				t.Errorf("%s: the next step is %v, want %d", what, got, number)
			}
			if d.X() != x || d.K != k || !slices.Equal(d.State(), state) {
				t.Errorf("%s: the state is elsewhere", what)
			}
		}
		step := func(s *torch.Scope) []*torch.Tensor {
			d.Step(s, sumOf, stepNoise(s, d.K))
			return nil
		}
		check("begun", 0)
		step(s)
		check("a step", 1)

		var kept []*torch.Tensor
		for _, t := range state {
			kept = append(kept, s.Clone(t))
		}
		step(s)
		check("two steps", 2)
		for i, t := range state {
			s.Copy_(t, kept[i])
		}
		check("put back", 1)

		g := s.Capture(step)
		defer g.Close()
		for number := 2; number <= steps; number++ {
			g.Replay()
			check("by a graph", number)
		}
		d.Restart(s, torch.From(s, []float32{-2, 1}, 2, 1, 1, 1))
		first, second = second, first
		check("started again", 0)
		for number := 1; number <= steps; number++ {
			g.Replay()
			check("again by the graph", number)
		}

		var told []int
		got, err := diffusion.Sample(s, twoStep{steps}, sumOf, torch.From(s, []float32{-2, 1}, 2, 1, 1, 1), stepNoise,
			func(done int) error { told = append(told, done); return nil })
		if err != nil || !bytes.Equal(got.Bytes(), x.Bytes()) || !slices.Equal(told, []int{1, 2, 3, 4}) {
			t.Errorf("Sample: %v after %v, want %v: %v", torch.Data[float32](got), told, torch.Data[float32](x), err)
		}
		return nil
	})
}

func TestTimes(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		times := diffusion.Times(s, twoStep{3}, 5)
		want := [][]float32{{0, 10, 20}, {5, 15, 25}}
		if len(times) != 2 {
			t.Fatalf("%d questions in a step, want 2", len(times))
		}
		for i, at := range times {
			if got := torch.Data[float32](at); !slices.Equal(got, want[i]) {
				t.Errorf("question %d: times %v, want %v", i, got, want[i])
			}
		}
		return nil
	})
}
