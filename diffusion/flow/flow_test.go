package flow

import (
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

var (
	paths = []schedule.Path{{Kind: schedule.Linear}, {Kind: schedule.GVP}, {Kind: schedule.VP},
		{Kind: schedule.Linear, NoiseAtOne: true}, {Kind: schedule.GVP, NoiseAtOne: true},
		{Kind: schedule.VP, NoiseAtOne: true}}
	predictions = []schedule.Prediction{schedule.Noise, schedule.Velocity, schedule.Score, schedule.Data}
)

// toy is the network of the goldens.
func toy(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
	wave := s.MulScalar(s.Cos(s.MulScalar(s.Reshape(t, -1, 1, 1, 1), 3)), 0.5)
	return s.Add(s.Add(s.MulScalar(x, -0.7), wave), s.MulScalar(s.Sin(s.MulScalar(x, 4)), 0.1))
}

// draws returns a function that draws normal numbers.
func draws(t *testing.T, s *torch.Scope) func(dims ...int) *torch.Tensor {
	t.Helper()
	generator, err := torch.NewGenerator(s.Device(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return func(dims ...int) *torch.Tensor { return s.Randn(generator, dims...) }
}

func near(t *testing.T, s *torch.Scope, what string, got, want *torch.Tensor, limit float64) {
	t.Helper()
	if e := torchtest.Relative(s, got, want); !(e <= limit) {
		t.Errorf("%s: relative error %.2g, want at most %.0g", what, e, limit)
	}
}

// What is computed on the device is what package schedule computes on the host.
func TestLevelsEqualSchedule(t *testing.T) {
	times := []float64{0.001, 0.25, 0.5, 0.9, 0.999}
	torchtest.Run(t, func(s *torch.Scope) error {
		draw := draws(t, s)
		x, out := s.To(draw(5, 1, 2, 2), torch.Float64), s.To(draw(5, 1, 2, 2), torch.Float64)
		for _, p := range paths {
			l := At(s, p, torch.From(s, times, len(times)))
			each := func(f func(schedule.Level) float64) *torch.Tensor {
				var v []float64
				for _, t := range times {
					v = append(v, f(p.At(t)))
				}
				return torch.From(s, v, len(v))
			}
			name := string(p.Kind)
			near(t, s, name+": alpha", l.Alpha, each(func(l schedule.Level) float64 { return l.Alpha }), 1e-14)
			near(t, s, name+": alpha'", l.DAlpha, each(func(l schedule.Level) float64 { return l.DAlpha }), 1e-14)
			near(t, s, name+": sigma", l.Sigma, each(func(l schedule.Level) float64 { return l.Sigma }), 1e-14)
			// 1 - exp(2 L) cancels near data.
			near(t, s, name+": sigma'", l.DSigma, each(func(l schedule.Level) float64 { return l.DSigma }), 1e-12)
			near(t, s, name+": D", l.Diffusion(s), each(schedule.Level.Diffusion), 1e-12)
			for _, from := range predictions {
				want := mix(s, each(func(l schedule.Level) float64 { return l.VelocityFrom(from).X }), x,
					each(func(l schedule.Level) float64 { return l.VelocityFrom(from).Output }), out)
				near(t, s, name+": velocity from "+string(from), l.Velocity(s, from, x, out), want, 1e-12)
			}
		}
		return nil
	})
}

// sitNames are those of the original.
var sitNames = map[schedule.Kind]string{schedule.Linear: "Linear", schedule.GVP: "GVP", schedule.VP: "VP"}

// SiT's losses, by bench/parity/gen_goldens_flow.py: its own distance from float64 is at most 3.4e-7.
func TestLossesEqualSiT(t *testing.T) {
	g := torchtest.Open(t, "testdata/losses.safetensors")
	compared := 0
	torchtest.Run(t, func(s *torch.Scope) error {
		x0, noise := g.Tensor(s, "x1"), g.Tensor(s, "x0")
		for _, p := range paths[:3] {
			for _, prediction := range predictions[:3] {
				for _, weight := range []Weight{WeightNone, WeightVelocity, WeightLikelihood} {
					if prediction == schedule.Velocity && weight != WeightNone {
						continue
					}
					kind := sitNames[p.Kind]
					name := strings.Join([]string{kind, string(prediction), string(weight)}, ".")
					o, err := New(Config{Path: p, Prediction: prediction, Weight: weight})
					if err != nil {
						t.Fatal(err)
					}
					times := g.Tensor(s, name+".t")
					losses := o.Losses(s, toy, x0, noise, times)
					near(t, s, name, losses.Total, g.Tensor(s, name+".loss"), 2e-6)
					for i, want := range torch.Data[float32](g.Tensor(s, name+".loss")) {
						got := torch.Data[float32](losses.Total)[i]
						if !(math.Abs(float64(got-want)) <= 2e-6*float64(want)) {
							t.Errorf("%s: loss %d is %v, original %v", name, i, got, want)
						}
					}
					// The other direction is the same loss of a network that is told the other time and, of a
					// velocity, the other sign.
					turned, err := New(Config{Path: schedule.Path{Kind: p.Kind, NoiseAtOne: true},
						Prediction: prediction, Weight: weight})
					if err != nil {
						t.Fatal(err)
					}
					one := s.Ones(torch.Float32, 1)
					sign := 1.0
					if prediction == schedule.Velocity {
						sign = -1
					}
					model := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
						return s.MulScalar(toy(s, x, s.Subtract(one, t)), sign)
					}
					other := turned.Losses(s, model, x0, noise, s.Subtract(one, times))
					// Rounding 1 - t counts where the path is steep.
					near(t, s, name+", turned", other.Total, losses.Total, 2e-6)
					compared++
				}
			}
		}
		return nil
	})
	if compared != 21 {
		t.Errorf("%d losses compared", compared)
	}
}

// A network that predicts data has the loss of noise or of the velocity by the weights.
func TestLossOfData(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		draw := draws(t, s)
		x0, noise := draw(2, 4, 2, 2), draw(2, 4, 2, 2)
		times := torch.From(s, []float32{0.2, 0.7}, 2)
		for _, p := range paths {
			data := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
				return s.Cat([]*torch.Tensor{toy(s, x, t), x}, 1) // with channels for a variance
			}
			velocity := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
				return At(s, p, t).Velocity(s, schedule.Data, x, toy(s, x, t))
			}
			loss := func(c Config, model diffusion.Denoiser) diffusion.Losses {
				o, err := New(c)
				if err != nil {
					t.Fatal(err)
				}
				return o.Losses(s, model, x0, noise, times)
			}
			plain := loss(Config{Path: p, Prediction: schedule.Data}, data)
			weighted := loss(Config{Path: p, Prediction: schedule.Data, Weight: WeightVelocity}, data)
			near(t, s, "velocity", weighted.Total, loss(Config{Path: p}, velocity).Total, 2e-6)
			near(t, s, "data", weighted.MSE, plain.Total, 0)
			likelihood := loss(Config{Path: p, Prediction: schedule.Data, Weight: WeightLikelihood}, data)
			noiseOf := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
				l := At(s, p, t)
				scale := s.Neg(s.Div(l.Alpha, l.Sigma))
				return mix(s, s.PowScalar(l.Sigma, -1), x, scale, toy(s, x, t))
			}
			near(t, s, "likelihood", likelihood.Total,
				loss(Config{Path: p, Prediction: schedule.Noise, Weight: WeightLikelihood}, noiseOf).Total, 2e-6)
		}
		return nil
	})
}

// quantiles are times of a configuration for u = 0, 1/8, ... 7/8.
func quantiles(t *testing.T, s *torch.Scope, c Config) []float32 {
	t.Helper()
	o, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	times := o.Time(s, s.MulScalar(s.Arange(8, torch.Float64), 0.125))
	if times.DType() != torch.Float32 {
		t.Errorf("times are %v", times)
	}
	return torch.Data[float32](times)
}

func TestTimes(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		check := func(what string, got []float32, want func(u float64) float64) {
			t.Helper()
			for i, v := range got {
				if w := want(float64(i) / 8); !(math.Abs(float64(v)-w) <= 1e-7) {
					t.Errorf("%s: time %d is %v, want %v", what, i, v, w)
				}
			}
		}
		linear := schedule.Path{Kind: schedule.Linear}
		check("uniform", quantiles(t, s, Config{Path: linear}), func(u float64) float64 { return u })
		check("noise", quantiles(t, s, Config{Path: linear, Prediction: schedule.Noise}),
			func(u float64) float64 { return u*0.998 + 0.001 })
		check("VP", quantiles(t, s, Config{Path: paths[2]}), func(u float64) float64 { return u * (1 - 1e-5) })
		check("VP turned", quantiles(t, s, Config{Path: paths[5]}),
			func(u float64) float64 { return 1e-5 + u*(1-1e-5) })
		check("shifted", quantiles(t, s, Config{Path: linear, Times: Times{Shift: 0.3}}),
			func(u float64) float64 { return 0.3 * u / (1 - 0.7*u) })
		normal := []float64{math.Inf(-1), -1.1503493804, -0.6744897502, -0.3186393640, 0, 0.3186393640, 0.6744897502,
			1.1503493804}
		sigmoid := func(z float64) float64 { return 1 / (1 + math.Exp(-z)) }
		check("logit-normal", quantiles(t, s, Config{Path: linear, Times: Times{LogitNormal: true}}),
			func(u float64) float64 { return sigmoid(normal[int(u*8)]) })
		of := Times{LogitNormal: true, Mean: -0.4, Std: 1.5}
		check("of another mean", quantiles(t, s, Config{Path: linear, Times: of}),
			func(u float64) float64 { return sigmoid(normal[int(u*8)]*1.5 - 0.4) })

		// Cut off at the quantiles 1/4 and 3/4, what is left are the quantiles between.
		cut := quantiles(t, s, Config{Path: linear, Times: Times{LogitNormal: true, Lo: sigmoid(normal[2]),
			Hi: sigmoid(normal[6])}})
		for i := 0; i < 8; i += 2 {
			if w := sigmoid(normal[2+i/2]); !(math.Abs(float64(cut[i])-w) <= 1e-7) {
				t.Errorf("cut off: time %d is %v, want %v", i, cut[i], w)
			}
		}
		o, err := New(Config{Path: linear})
		if err != nil {
			t.Fatal(err)
		}
		at := torch.From(s, []float32{0, 0.25, 1}, 3)
		turned, err := New(Config{Path: paths[3]})
		if err != nil {
			t.Fatal(err)
		}
		got := torch.Data[float64](o.Noisiness(s, at))
		if !(got[0] < 1) || got[0] < 0.9999 || got[1] != 0.75 || got[2] != 0 {
			t.Errorf("noisiness %v", got)
		}
		if got := torch.Data[float64](turned.Noisiness(s, at)); got[0] != 0 || got[1] != 0.25 || !(got[2] < 1) {
			t.Errorf("noisiness %v", got)
		}
		return nil
	})
}

// At the ends of the uniform numbers too, times keep SiT's margins however they are drawn, and losses are finite.
func TestTimesKeepMargins(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		draw := draws(t, s)
		u := []float64{0, 1e-300, 1.0 / (1 << 32), 1 - 1.0/(1<<32), math.Nextafter(1, 0)}
		x0, noise := draw(len(u), 1, 2, 2), draw(len(u), 1, 2, 2)
		for _, p := range paths {
			for _, prediction := range predictions {
				for _, times := range []Times{{}, {Shift: 1e6}, {Shift: 1e-6}, {LogitNormal: true},
					{LogitNormal: true, Mean: 9, Std: 9}, {LogitNormal: true, Mean: -9, Std: 9, Shift: 1e-6}} {
					c := Config{Path: p, Prediction: prediction, Times: times}
					if prediction != schedule.Velocity {
						c.Weight = WeightLikelihood
					}
					o, err := New(c)
					if err != nil {
						t.Fatal(err)
					}
					at := o.Time(s, torch.From(s, u, len(u)))
					lo, hi := p.TrainInterval(prediction)
					for i, v := range torch.Data[float32](at) {
						if !(float32(lo) <= v && v <= float32(hi)) {
							t.Errorf("%+v: %v becomes time %v, want %v to %v", c, u[i], v, lo, hi)
						}
					}
					for i, v := range torch.Data[float32](o.Losses(s, toy, x0, noise, at).Total) {
						if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
							t.Errorf("%+v: the loss at %v is %v", c, u[i], v)
						}
					}
				}
			}
		}
		return nil
	})
}

// The loss of RAE for PyTorch's own draws: data, noise, then uniform numbers that become times, logit-normal up to
// 0.999, shifted by sqrt(768 16 16 / 4096).
func TestLossEqualsRAE(t *testing.T) {
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		draw, err := torch.NewGenerator(torch.CPU, 0)
		if err != nil {
			return err
		}
		x0, noise, u := s.Randn(draw, 4, 1, 2, 2), s.Randn(draw, 4, 1, 2, 2), s.Empty(torch.Float32, 4)
		s.Uniform_(u, draw, 0, 1)
		o, err := New(Config{Path: paths[3], Times: Times{LogitNormal: true, Hi: 0.999,
			Shift: math.Sqrt(768 * 16 * 16 / 4096.)}})
		if err != nil {
			return err
		}
		losses := o.Losses(s, toy, x0, noise, o.Time(s, s.To(u, torch.Float64)))
		near(t, s, "loss", losses.Total, torch.From(s, []float32{1.8258288, 8.5022030, .3577723, 1.6086488}, 4), 2e-6)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestConfigsRefused(t *testing.T) {
	linear := schedule.Path{Kind: schedule.Linear}
	for want, c := range map[string]Config{
		`path "": want linear`:                 {},
		`prediction "eps": want noise`:         {Path: linear, Prediction: "eps"},
		`loss weight "snr": want none`:         {Path: linear, Weight: "snr"},
		"the loss of a velocity has none":      {Path: linear, Weight: WeightLikelihood},
		"timestep shift -1: want a positive":   {Path: linear, Times: Times{Shift: -1}},
		"timestep shift 1e+07: want a pos":     {Path: linear, Times: Times{Shift: 1e7}},
		"times are uniform: mean":              {Path: linear, Times: Times{Hi: 0.999}},
		"times of mean 0 and deviation -1":     {Path: linear, Times: Times{LogitNormal: true, Std: -1}},
		"times from 0 to 1.5: the interval is": {Path: linear, Times: Times{LogitNormal: true, Hi: 1.5}},
		"times from -0.5 to 1: the interval":   {Path: linear, Times: Times{LogitNormal: true, Lo: -0.5}},
		"times from 0.9 to 0.1: the interval":  {Path: linear, Times: Times{LogitNormal: true, Lo: 0.9, Hi: 0.1}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
