package gaussian

import (
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The original in float32 differs from itself in float64 by up to 5e-6 in the gradients and 3e-6 in
// the bound, by 2e-7 elsewhere.
const (
	tolerance         = 2e-6
	toleranceOfLosses = 1e-5
)

// constant is a Denoiser that answers with the same output whatever it is asked.
func constant(output *torch.Tensor) diffusion.Denoiser {
	return func(*torch.Scope, *torch.Tensor, *torch.Tensor) *torch.Tensor { return output }
}

func ints(t *torch.Tensor) []int {
	var out []int
	for _, v := range torch.Data[int64](t) {
		out = append(out, int(v))
	}
	return out
}

func TestLossesEqualOriginal(t *testing.T) {
	g := torchtest.Open(t, "../testdata/losses.safetensors")
	d, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(s *torch.Scope) {
		o := NewObjective(s, d)
		x0, noise, steps := g.Tensor(s, "x0"), g.Tensor(s, "noise"), g.Tensor(s, "t")
		near(t, s, "q_sample", noised(s, lookUp(s, o.coefficients, steps), x0, noise), g.Tensor(s, "q_sample"),
			tolerance)

		output := s.Clone(g.Tensor(s, "model_output"))
		output.SetRequiresGrad(true)
		l := o.Losses(s, constant(output), x0, noise, steps)
		near(t, s, "mse", l.MSE, g.Tensor(s, "mse"), tolerance)
		near(t, s, "vb", l.VB, g.Tensor(s, "vb"), toleranceOfLosses)
		near(t, s, "loss", l.Total, g.Tensor(s, "loss"), toleranceOfLosses)
		s.Backward(s.Mean(l.Total))
		near(t, s, "gradient", s.Grad(output), g.Tensor(s, "grad"), 3*toleranceOfLosses)

		half := s.Clone(s.Narrow(g.Tensor(s, "model_output"), 1, 0, x0.Dim(1)))
		half.SetRequiresGrad(true)
		l = o.Losses(s, constant(half), x0, noise, steps)
		if l.VB != nil {
			t.Error("a model that does not learn the variance has a variational term")
		}
		near(t, s, "loss without variance", l.Total, g.Tensor(s, "fixed.loss"), tolerance)
		s.Backward(s.Mean(l.Total))
		near(t, s, "gradient without variance", s.Grad(half), g.Tensor(s, "fixed.grad"), tolerance)
	})
}

// Weights are those of the schedule; the bound has none.
func TestMinSNR(t *testing.T) {
	g := torchtest.Open(t, "../testdata/losses.safetensors")
	d, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	weights, err := d.MinSNR(5)
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(s *torch.Scope) {
		o := NewObjective(s, d)
		if err := o.MinSNR(s, 5); err != nil {
			t.Fatal(err)
		}
		steps := g.Tensor(s, "t")
		var at []float32
		for _, step := range ints(steps) {
			at = append(at, float32(weights[step]))
		}
		l := o.Losses(s, constant(g.Tensor(s, "model_output")), g.Tensor(s, "x0"), g.Tensor(s, "noise"), steps)
		near(t, s, "mse", l.MSE, g.Tensor(s, "mse"), tolerance)
		want := s.Add(s.Mul(torch.From(s, at, len(at)), l.MSE), l.VB)
		near(t, s, "loss", l.Total, want, tolerance)
		if e := torchtest.Relative(s, l.Total, g.Tensor(s, "loss")); !(e > 0.01) {
			t.Errorf("the weights do nothing: %v", e)
		}
		if err := o.MinSNR(s, -1); err == nil {
			t.Error("gamma -1: no error")
		}
	})
}

func TestStepsEqualOriginal(t *testing.T) {
	g := torchtest.Open(t, "../testdata/steps.safetensors")
	for name, spec := range map[string]string{"full": "", "250": "250", "ddim50": "ddim50"} {
		d, err := New(spec)
		if err != nil {
			t.Fatal(err)
		}
		run(t, func(s *torch.Scope) {
			steps := ints(g.Tensor(s, name+".t"))
			ddpm, ddim := NewDDPM(s, d), NewDDIM(s, d)
			told := ints(ddpm.told(s, g.Tensor(s, name+".t")))
			for i, want := range ints(g.Tensor(s, name+".t_model")) {
				if told[i] != want {
					t.Errorf("%s: the network is told step %d, want %d", name, told[i], want)
				}
			}
			for i, step := range steps {
				row := func(key string) *torch.Tensor { return s.Narrow(g.Tensor(s, key), 0, i, 1) }
				x, noise, output := row("x"), row("noise"), row("model_output")
				model := constant(output)
				check := func(key string, got *torch.Tensor) {
					t.Helper()
					near(t, s, name+"."+key, got, row(name+"."+key), tolerance)
				}
				at, k := torch.From(s, []int64{int64(step)}, 1), torch.From(s, []int64{int64(d.Len() - 1 - step)}, 1)
				step := func(v diffusion.Solver, model diffusion.Denoiser) *torch.Tensor {
					return v.Step(s, model, v.Start(s, x), noise, k).X()
				}
				p, _ := ddpm.predict(s, model, x, at)
				check("pred_xstart", p.x0)
				check("mean", p.mean)
				check("log_variance", p.logVar)
				check("p_sample", step(ddpm, model))
				check("ddim0", step(ddim, model))
				check("fixed.p_sample", step(ddpm, constant(s.Narrow(output, 1, 0, x.Dim(1)))))
			}
		})
	}
}

// The KL and likelihood of the reference, worked by hand in float64.
func TestWorkedScalars(t *testing.T) {
	run(t, func(s *torch.Scope) {
		scalar := func(v float32) *torch.Tensor { return torch.From(s, []float32{v}, 1) }
		const bit = 0.6931471805599453
		kl := normalKL(s, scalar(0.1), scalar(-4.6), scalar(0.12), scalar(-4.5)).Item()
		if diff := kl - 0.0204221353; diff > 1e-7 || diff < -1e-7 {
			t.Errorf("KL = %.9f nats, want 0.0204221353", kl)
		}
		for _, c := range []struct {
			x, mean float32
			bits    float64
		}{
			{0.1, 0.12, 5.11329081}, {0.1, 0.1, 1.51624812}, {-1.2, -1.19, 2.05145182}, {1.0, 0.98, 4.98546282},
			{0.5, 0.9, 39.8631371},
		} {
			got := -discretizedLogLikelihood(s, scalar(c.x), scalar(c.mean), scalar(-9.5/2)).Item() / bit
			if diff := got - c.bits; diff > 2e-5 || diff < -2e-5 {
				t.Errorf("x %v under mean %v: %.7f bits, want %.7f", c.x, c.mean, got, c.bits)
			}
		}
	})
}

func TestBadSpecs(t *testing.T) {
	for _, spec := range []string{"ddim1", "x", "1001", "-3", "0"} {
		if _, err := New(spec); err == nil {
			t.Errorf("New(%q): no error", spec)
		}
	}
}

// A step that the process does not have is an error.
func TestStepsOutOfRange(t *testing.T) {
	d, err := New("10")
	if err != nil {
		t.Fatal(err)
	}
	for step, want := range map[int64]string{10: "index 10 is out of range: want 0 to 9", -1: "index -1 is"} {
		err := torch.Run(torchtest.Device(t), func(s *torch.Scope) error {
			x := s.Zeros(torch.Float32, 2, 1, 2, 2)
			NewObjective(s, d).Losses(s, constant(x), x, x, torch.From(s, []int64{0, step}, 2))
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("step %d: %v", step, err)
		}
	}
}

// Times are those that package philox draws, and no step needs the host.
func TestTime(t *testing.T) {
	d, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(s *torch.Scope) {
		o := NewObjective(s, d)
		const n = 1000
		u, want := make([]float64, n), make([]int, n)
		for i := range n {
			u[i] = philox.Uniform(7, philox.TagTimestep, 0, uint64(i))
			want[i] = philox.Intn(TrainSteps, 7, philox.TagTimestep, 0, uint64(i))
		}
		times := o.Time(s, torch.From(s, u, n))
		if got := ints(times); !slices.Equal(got, want) {
			t.Errorf("times %v, want %v", got[:8], want[:8])
		}
		for i, v := range torch.Data[float64](o.Noisiness(s, times)) {
			if int(v*10) != want[i]*10/TrainSteps {
				t.Fatalf("step %d lies at %v", want[i], v)
			}
		}
	})
}

func run(t *testing.T, f func(s *torch.Scope)) {
	t.Helper()
	if err := torch.Run(torchtest.Device(t), func(s *torch.Scope) error { f(s); return nil }); err != nil {
		t.Fatal(err)
	}
}

func near(t *testing.T, s *torch.Scope, what string, got, want *torch.Tensor, limit float64) {
	t.Helper()
	if !slices.Equal(got.Shape(), want.Shape()) {
		got = s.Expand(got, want.Shape()...)
	}
	if e := torchtest.Relative(s, got, want); !(e <= limit) {
		t.Errorf("%s: relative error %.2g, want at most %.0g", what, e, limit)
	}
}
