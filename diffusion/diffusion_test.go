package diffusion

import (
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The original in float32 differs from itself in float64 by up to 5e-6 in the gradients and 3e-6 in
// the bound, by 2e-7 elsewhere.
const (
	tolerance         = 2e-6
	toleranceOfLosses = 1e-5
)

// constant is a Denoiser that answers with the same output whatever it is asked.
func constant(output *torch.Tensor) Denoiser {
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
	g := torchtest.Open(t, "testdata/losses.safetensors")
	d, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(s *torch.Scope) {
		x0, noise, steps := g.Tensor(s, "x0"), g.Tensor(s, "noise"), ints(g.Tensor(s, "t"))
		near(t, s, "q_sample", d.QSample(s, x0, noise, steps), g.Tensor(s, "q_sample"), tolerance)

		output := s.Clone(g.Tensor(s, "model_output"))
		output.SetRequiresGrad(true)
		l := d.TrainingLosses(s, constant(output), x0, noise, steps)
		near(t, s, "mse", l.MSE, g.Tensor(s, "mse"), tolerance)
		near(t, s, "vb", l.VB, g.Tensor(s, "vb"), toleranceOfLosses)
		near(t, s, "loss", l.Total, g.Tensor(s, "loss"), toleranceOfLosses)
		s.Backward(s.Mean(l.Total))
		near(t, s, "gradient", s.Grad(output), g.Tensor(s, "grad"), 3*toleranceOfLosses)

		half := s.Clone(s.Narrow(g.Tensor(s, "model_output"), 1, 0, x0.Dim(1)))
		half.SetRequiresGrad(true)
		l = d.TrainingLosses(s, constant(half), x0, noise, steps)
		if l.VB != nil {
			t.Error("a model that does not learn the variance has a variational term")
		}
		near(t, s, "loss without variance", l.Total, g.Tensor(s, "fixed.loss"), tolerance)
		s.Backward(s.Mean(l.Total))
		near(t, s, "gradient without variance", s.Grad(half), g.Tensor(s, "fixed.grad"), tolerance)
	})
}

func TestStepsEqualOriginal(t *testing.T) {
	g := torchtest.Open(t, "testdata/steps.safetensors")
	for name, spec := range map[string]string{"full": "", "250": "250", "ddim50": "ddim50"} {
		d, err := New(spec)
		if err != nil {
			t.Fatal(err)
		}
		run(t, func(s *torch.Scope) {
			steps := ints(g.Tensor(s, name+".t"))
			told := ints(d.modelSteps(s, steps))
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
				p := d.predict(s, output, x, []int{step})
				check("pred_xstart", p.x0)
				check("mean", p.mean)
				check("log_variance", p.logVar)
				check("p_sample", d.DDPMStep(s, model, x, noise, step))
				check("ddim0", d.DDIMStep(s, model, x, noise, step, 0))
				check("ddim1", d.DDIMStep(s, model, x, noise, step, 1))
				check("reverse", d.DDIMReverse(s, model, x, step))
				check("fixed.p_sample", d.DDPMStep(s, constant(s.Narrow(output, 1, 0, x.Dim(1))), x, noise, step))
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
	if _, err := ParseSampler("euler"); err == nil {
		t.Error("ParseSampler(euler): no error")
	}
}

// A step that the process does not have is an error, wherever it is given.
func TestStepsOutOfRange(t *testing.T) {
	d, err := New("10")
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(s *torch.Scope, x *torch.Tensor, step int){
		"losses": func(s *torch.Scope, x *torch.Tensor, step int) {
			d.TrainingLosses(s, constant(x), x, x, []int{0, step})
		},
		"noising": func(s *torch.Scope, x *torch.Tensor, step int) { d.QSample(s, x, x, []int{step, 0}) },
		"ddpm":    func(s *torch.Scope, x *torch.Tensor, step int) { d.DDPMStep(s, constant(x), x, x, step) },
		"ddim":    func(s *torch.Scope, x *torch.Tensor, step int) { d.DDIMStep(s, constant(x), x, x, step, 0) },
		"reverse": func(s *torch.Scope, x *torch.Tensor, step int) { d.DDIMReverse(s, constant(x), x, step) },
	} {
		for step, want := range map[int]string{10: "timestep 10 is out of range: want 0 to 9", -1: "timestep -1 is"} {
			err := torch.Run(torchtest.Device(t), func(s *torch.Scope) error {
				f(s, s.Zeros(torch.Float32, 2, 1, 2, 2), step)
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, step %d: %v", name, step, err)
			}
		}
	}
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
