package solver

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/flow"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// There and back again, by ddim and by a probability flow, in either direction of time.
func TestReverse(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Reshape(s.AddScalar(s.MulScalar(s.Arange(8, torch.Float32), 0.3), -1), 2, 1, 2, 2)
		sit, repa := &schedule.Path{Kind: schedule.GVP}, &schedule.Path{Kind: schedule.Linear, NoiseAtOne: true}
		g, err := schedule.DiTGrid(schedule.Linspace, 999, schedule.FinalZero)
		if err != nil {
			return err
		}
		// The noise of data that are normal with the deviation 0.5.
		noise := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			l := g[999-int(torch.Data[int64](t)[0])]
			return s.MulScalar(x, l.Sigma/(0.25*l.Alpha*l.Alpha+l.Sigma*l.Sigma))
		}
		for what, c := range map[string]struct {
			Config
			model diffusion.Denoiser
			limit float64
		}{
			"ddim":   {Config{Name: "ddim", Steps: 500}, noise, 0.015},
			"heun":   {Config{Name: "heun", Steps: 20, Path: sit}, toy, 1e-3},
			"rk4":    {Config{Name: "rk4", Steps: 20, Path: repa}, toy, 1e-5},
			"dopri5": {Config{Name: "dopri5", Path: repa, Dopri5: Tolerance{Relative: 1e-6}}, toy, 1e-4},
		} {
			data := run(t, s, c.Config, c.model, z)
			if e := torchtest.Relative(s, data, z); !(e > 0.1) {
				t.Errorf("%s goes nowhere: %v", what, e)
			}
			c.Reverse = true
			near(t, s, what, run(t, s, c.Config, c.model, data), z, c.limit)
		}
		return nil
	})
}

// The more steps there are, the better ddim's way back undoes it: to the first order, and with each correction to one
// more.
func TestOrderOfTheWayBack(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Reshape(s.AddScalar(s.MulScalar(s.Arange(8, torch.Float32), 0.3), -1), 2, 1, 2, 2)
		// Data are 1 or -1, so x_0 is expected at tanh(alpha x / sigma^2).
		steps := map[int64]schedule.Level{}
		full, err := schedule.New(schedule.LinearBetas(1000))
		if err != nil {
			return err
		}
		for _, l := range full.Grid() {
			if l.Sigma > 0 {
				steps[int64(l.T)] = l
			}
		}
		model := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			l := steps[torch.Data[int64](t)[0]]
			x0 := s.Tanh(s.MulScalar(x, l.Alpha/(l.Sigma*l.Sigma)))
			return s.MulScalar(s.Subtract(x, s.MulScalar(x0, l.Alpha)), 1/l.Sigma)
		}
		for corrections := range 3 {
			var errors []float64
			for _, n := range []int{50, 100} {
				c := Config{Name: "ddim", Steps: n, Spacing: schedule.Lambda, Final: schedule.FinalMin}
				data := run(t, s, c, model, z)
				c.Reverse, c.Corrections = true, corrections
				errors = append(errors, torchtest.Relative(s, run(t, s, c, model, data), z))
			}
			order := math.Log2(errors[0] / errors[1])
			t.Logf("%d corrections: errors %.2g and %.2g, order %.2f", corrections, errors[0], errors[1], order)
			if want := float64(corrections + 1); !(math.Abs(order-want) <= 0.25) {
				t.Errorf("%d corrections: order %.2f, want %g", corrections, order, want)
			}
		}
		return nil
	})
}

// run draws with a solver that adds no noise.
func run(t *testing.T, s *torch.Scope, c Config, model diffusion.Denoiser, start *torch.Tensor) *torch.Tensor {
	t.Helper()
	switch v := construct(t, s, c).(type) {
	case *Dopri5:
		x, err := v.Solve(s, model, start, func(int) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return x
	case *Linear:
		return draw(t, s, v, always(model), start, nil)
	}
	return nil
}

// All solvers of a probability flow go to the data, whatever the path and however time runs.
func TestSolversConverge(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Reshape(s.AddScalar(s.MulScalar(s.Arange(4, torch.Float32), 0.4), -0.7), 1, 1, 2, 2)
		for _, path := range []schedule.Path{{Kind: schedule.Linear}, {Kind: schedule.GVP, NoiseAtOne: true},
			{Kind: schedule.VP}} {
			// Data are normal with the mean 0.5 and the deviation 0.2, so the velocity is known.
			velocity := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
				l := flow.At(s, path, t)
				col := func(v *torch.Tensor) *torch.Tensor { return s.Reshape(s.To(v, torch.Float32), -1, 1, 1, 1) }
				variance := s.Add(s.MulScalar(s.Square(l.Alpha), 0.04), s.Square(l.Sigma))
				slope := s.Add(s.MulScalar(s.Mul(l.Alpha, l.DAlpha), 0.04), s.Mul(l.Sigma, l.DSigma))
				from := s.Subtract(x, s.MulScalar(col(l.Alpha), 0.5))
				return s.Add(s.MulScalar(col(l.DAlpha), 0.5), s.Mul(col(s.Div(slope, variance)), from))
			}
			for _, name := range Names(true) {
				if strings.HasPrefix(name, "sde") {
					continue
				}
				c := Config{Name: name, Path: &path, Final: schedule.FinalZero}
				start, end := path.SampleInterval(schedule.Velocity)
				if strings.HasSuffix(name, "bh1") { // ends before the data
					end = start + 0.99*(end-start)
					c.Start, c.End = start, end
				}
				a, b := path.At(start), path.At(end)
				deviation := func(l schedule.Level) float64 { return math.Sqrt(0.04*l.Alpha*l.Alpha + l.Sigma*l.Sigma) }
				truth := s.AddScalar(s.MulScalar(s.AddScalar(z, -0.5*a.Alpha), deviation(b)/deviation(a)), 0.5*b.Alpha)
				if name == "dopri5" {
					c.Dopri5.Relative = 1e-6
					near(t, s, name, run(t, s, c, velocity, z), truth, 1e-4)
					continue
				}
				c.Steps = 80
				limit := 0.025
				switch name {
				case "euler", "ddim", "dpm++1", "deis1":
					limit = 0.015
				case "heun", "midpoint", "heun3", "rk4":
					limit = 1e-3
				}
				near(t, s, fmt.Sprintf("%s on %v", name, path), run(t, s, c, velocity, z), truth, limit)
			}
		}
		return nil
	})
}

// With its last step an SDE goes the whole way from noise to data, however its times are shifted: where the velocity is
// 1 and there is next to no diffusion, samples move by as much as time does.
func TestShiftedSDEReachesData(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		zeros := s.Zeros(torch.Float32, 1, 1, 1, 1)
		one := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor { return s.Ones(torch.Float32, 1, 1, 1, 1) }
		for _, name := range []string{"sde-euler", "sde-heun"} {
			for _, last := range []LastStep{LastMean, LastEuler, LastTweedie} {
				for _, shift := range []float64{1, 0.3, 3, 6.93} {
					for _, path := range []schedule.Path{{Kind: schedule.Linear},
						{Kind: schedule.Linear, NoiseAtOne: true}} {
						want := 1.0
						if path.NoiseAtOne {
							want = -1
						}
						v := linear(t, s, Config{Name: name, Path: &path, Steps: 5, Shift: shift,
							SDE: SDE{Form: FormConstant, Norm: 1e-30, Last: last}})
						x := draw(t, s, v, always(one), zeros, slices.Repeat([]*torch.Tensor{zeros}, 4))
						if got := torch.Data[float32](x)[0]; !(math.Abs(float64(got)-want) <= 1e-6) {
							t.Errorf("%s, %s, shift %v, %v: samples move by %v, want %v",
								name, last, shift, path, got, want)
						}
					}
				}
			}
		}
		return nil
	})
}

// Whatever a network predicts, a solver draws the same.
func TestPredictionsDrawTheSame(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Reshape(s.AddScalar(s.MulScalar(s.Arange(8, torch.Float32), 0.3), -1), 2, 1, 2, 2)
		for _, path := range []schedule.Path{{Kind: schedule.Linear}, {Kind: schedule.GVP, NoiseAtOne: true}} {
			// The interval is that of all predictions but velocity.
			start, end := path.SampleInterval(schedule.Noise)
			for _, name := range []string{"ddim", "dpm++2m", "unipc3", "deis2", "heun", "dopri5", "sde-euler"} {
				c := Config{Name: name, Path: &path, Start: start, End: end, Steps: 10}
				if name == "dopri5" {
					c.Steps, c.Dopri5.Relative = 0, 1e-6
				}
				answer := func(p schedule.Prediction) *torch.Tensor {
					c.Prediction = p
					model := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
						// The samples are all at one time, but those of dopri5.
						var outs []*torch.Tensor
						for i, at := range torch.Data[float32](t) {
							x, l := s.Narrow(x, 0, i, 1), path.At(float64(at))
							out := toy(s, x, s.Narrow(t, 0, i, 1))
							m := map[schedule.Prediction]schedule.Mix{schedule.Velocity: {Output: 1},
								schedule.Noise: l.NoiseFrom(schedule.Velocity),
								schedule.Score: l.ScoreFrom(schedule.Velocity),
								schedule.Data:  l.DataFrom(schedule.Velocity)}[p]
							outs = append(outs, s.Add(s.MulScalar(x, m.X), s.MulScalar(out, m.Output)))
						}
						out := s.Cat(outs, 0)
						return s.Cat([]*torch.Tensor{out, x}, 1) // and channels for a variance
					}
					if name != "sde-euler" {
						return run(t, s, c, model, z)
					}
					zeros := s.Zeros(torch.Float32, 2, 1, 2, 2)
					return draw(t, s, linear(t, s, c), always(model), z, slices.Repeat([]*torch.Tensor{zeros}, 9))
				}
				want := answer(schedule.Velocity)
				for _, p := range []schedule.Prediction{schedule.Noise, schedule.Score, schedule.Data} {
					// From noise near alpha 0 the data are told to a thousandth as many digits.
					near(t, s, name+" of "+string(p), answer(p), want, 5e-4)
				}
			}
		}
		return nil
	})
}

// Samples may be at different steps of one call.
func TestSamplesAtDifferentSteps(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Reshape(s.AddScalar(s.MulScalar(s.Arange(8, torch.Float32), 0.3), -1), 2, 1, 2, 2)
		path := &schedule.Path{Kind: schedule.Linear}
		for _, name := range []string{"unipc3", "dpm++3m", "rk4"} {
			v := linear(t, s, Config{Name: name, Path: path, Steps: 6})
			want := draw(t, s, v, always(toy), z, nil)
			// The second sample begins two steps after the first one.
			state := v.Start(s, z)
			var first *torch.Tensor
			for k := range v.Steps() + 2 {
				at := torch.From(s, []int64{int64(min(k, v.Steps()-1)), int64(max(k-2, 0))}, 2)
				state = v.Step(s, toy, state, nil, at)
				if k == v.Steps()-1 {
					first = s.Narrow(state.X(), 0, 0, 1)
				}
				if k == 1 { // what it has done so far does not count
					for i, begun := range v.Start(s, z) {
						state[i] = s.Cat([]*torch.Tensor{s.Narrow(state[i], 0, 0, 1), s.Narrow(begun, 0, 1, 1)}, 0)
					}
				}
			}
			near(t, s, name, s.Cat([]*torch.Tensor{first, s.Narrow(state.X(), 0, 1, 1)}, 0), want, 1e-7)
		}
		return nil
	})
}

// A step needs nothing of the host, so that one graph serves all steps of a run.
func TestOneGraphServesAllSteps(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Reshape(s.AddScalar(s.MulScalar(s.Arange(8, torch.Float32), 0.3), -1), 2, 1, 2, 2)
		for _, c := range []Config{
			{Name: "unipc2", Path: &schedule.Path{Kind: schedule.GVP}, Steps: 6}, {Name: "deis3", Steps: 6},
			{Name: "sde-heun", Path: &schedule.Path{Kind: schedule.Linear}, Steps: 6},
		} {
			v := linear(t, s, c)
			model := toy
			if c.Path == nil {
				model = func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
					return toy(s, x, s.MulScalar(s.To(t, torch.Float32), 1e-3))
				}
			}
			noises := slices.Repeat([]*torch.Tensor{z}, v.Steps())
			want := draw(t, s, v, always(model), z, noises)

			state := v.Start(s, s.Clone(z))
			k := s.Zeros(torch.Int64, 2)
			for _, x := range append([]*torch.Tensor{k, z}, state...) {
				torch.Persist(x)
				defer x.Close()
			}
			torch.Persist(v.table)
			torch.Persist(v.told)
			defer v.table.Close()
			defer v.told.Close()
			step := func(s *torch.Scope) []*torch.Tensor {
				return v.Step(s.NoGrad(), model, state, z, s.Clamp(k, 0, float64(v.Steps()-1)))
			}
			s.SubAll(step) // without a graph, once
			graph := s.Capture(step)
			defer graph.Close()
			for i := range v.Steps() {
				s.Fill_(k, float64(i))
				graph.Replay()
				for j, x := range graph.Results() {
					s.Copy_(state[j], x)
				}
			}
			near(t, s, c.Name, state.X(), want, 1e-7)
			torch.Persist(z) // closed at the end, for the next one too
			z = s.Clone(z)
		}
		return nil
	})
}

// The samples of a batch choose their own steps, so none depends on the others.
func TestDopri5TakesSamplesApart(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Reshape(s.MulScalar(s.AddScalar(s.Arange(8, torch.Float32), -3), 0.6), 2, 1, 2, 2)
		c := Config{Name: "dopri5", Path: &schedule.Path{Kind: schedule.Linear}}
		both := run(t, s, c, toy, z)
		c.Dopri5.WholeBatch = true
		together := run(t, s, c, toy, z)
		for i := range 2 {
			row := func(x *torch.Tensor) *torch.Tensor { return s.Narrow(x, 0, i, 1) }
			alone := run(t, s, c, toy, row(z))
			near(t, s, "a sample alone", row(both), alone, 2e-5)
			if e := torchtest.Relative(s, row(together), alone); !(e > 5e-5) {
				t.Errorf("the batch does not count in sample %d: %v", i, e)
			}
		}
		return nil
	})
}

// Beyond the end of VP there is no sigma. torchdiffeq, which steps there, gives up ("underflow in dt").
func TestDopri5BeyondTheEnd(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Reshape(s.MulScalar(s.AddScalar(s.Arange(8, torch.Float32), -3), 0.6), 2, 1, 2, 2)
		c := Config{Name: "dopri5", Path: &schedule.Path{Kind: schedule.VP}, Prediction: schedule.Noise}
		small := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor { return s.MulScalar(x, 0.9) }
		fine := run(t, s, Config{Name: "rk4", Steps: 400, Path: c.Path, Prediction: schedule.Noise}, small, z)
		near(t, s, "samples", run(t, s, c, small, z), fine, 5e-3)
		rough := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return s.Div(x, s.Zeros(torch.Float32, 1))
		}
		calls := 0
		_, err := construct(t, s, c).(*Dopri5).Solve(s, counted(rough, &calls), z, func(int) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "its step becomes nothing at time 0: the velocity is") {
			t.Errorf("a network that answers with infinities: %v after %d calls", err, calls)
		}
		return nil
	})
}

// The frame's own loop draws what draw does.
func TestSample(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		g, _ := flowGoldens(t)
		z, noises := g.Tensor(s, "z"), s.Unbind(g.Tensor(s, "noise"), 19, 0)
		v := linear(t, s, Config{Name: "sde-euler", Steps: 20, Path: &schedule.Path{Kind: schedule.Linear}})
		if !v.Random() || v.Draws(19) || !v.Draws(18) {
			t.Error("all steps but the last one draw noise")
		}
		noise := func(s *torch.Scope, k *torch.Tensor) *torch.Tensor {
			return s.Clone(noises[min(int(k.Item()), 18)])
		}
		x, err := diffusion.Sample(s, v, toy, z, noise, func(int) error { return nil })
		if err != nil {
			return err
		}
		near(t, s, "Sample", x, g.Tensor(s, "sde Linear velocity Euler sigma Mean 20"), tolerance)
		for _, name := range []string{"unipc3", "rk4", "deis3"} { // with a memory; the loop frees states
			v := linear(t, s, Config{Name: name, Steps: 8, Path: &schedule.Path{Kind: schedule.Linear}})
			x, err := diffusion.Sample(s, v, toy, z, nil, func(int) error { return nil })
			if err != nil {
				return err
			}
			near(t, s, name, x, draw(t, s, v, always(toy), z, nil), 0)
		}
		if starts := v.Starts(); len(starts) != 20 || starts[0] != 0 || math.Abs(starts[19]-0.96) > 1e-15 {
			t.Errorf("starts %v", starts)
		}
		return nil
	})
}
