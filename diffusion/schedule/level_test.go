package schedule

import (
	"math"
	"strings"
	"testing"
)

var (
	paths = []Path{{Linear, false}, {GVP, false}, {VP, false}, {Linear, true}, {GVP, true}, {VP, true}}
	kinds = []Prediction{Noise, Velocity, Score, Data}
)

func checkNear(t *testing.T, what string, got, want, limit float64) {
	t.Helper()
	if !(math.Abs(got-want) <= limit) {
		t.Errorf("%s = %.10g, want %.10g", what, got, want)
	}
}

// The scalars are SiT's at x_0 = 1 and eps = -0.5.
func TestPathsEqualSiT(t *testing.T) {
	for _, c := range []struct {
		kind           Kind
		t, alpha, d, u float64
		sigma, score   float64
	}{
		{Linear, 0.3, 0.3, 2.33333333, 1.5, 0.7, 0.714285714},
		{GVP, 0.3, 0.4539905, 3.08286137, 1.75615308, 0.891006524, 0.561163119},
		{VP, 0.9, 0.946721799, 1.045, 2.44345794, 0.322052536, 1.55254173},
	} {
		for _, turned := range []bool{false, true} {
			p, sign, at := Path{c.kind, turned}, 1.0, c.t
			if turned {
				sign, at = -1, 1-c.t
			}
			l := p.At(at)
			x := l.Alpha - 0.5*l.Sigma
			checkNear(t, "alpha", l.Alpha, c.alpha, 2e-8)
			checkNear(t, "sigma", l.Sigma, c.sigma, 2e-8)
			checkNear(t, "D", l.Diffusion(), c.d, 2e-8)
			checkNear(t, "velocity", sign*(l.DAlpha-0.5*l.DSigma), c.u, 2e-8)
			m := l.ScoreFrom(Velocity)
			checkNear(t, "score", m.X*x+m.Output*sign*c.u, c.score, 2e-8)
		}
	}
}

func TestDerivativesOfPaths(t *testing.T) {
	for _, p := range paths {
		for _, at := range []float64{0.1, 0.5, 0.8} {
			const h = 1e-6
			a, b, l := p.At(at-h), p.At(at+h), p.At(at)
			checkNear(t, "alpha'", l.DAlpha, (b.Alpha-a.Alpha)/(2*h), 1e-8)
			checkNear(t, "sigma'", l.DSigma, (b.Sigma-a.Sigma)/(2*h), 1e-8)
			checkNear(t, "time of lambda", p.timeOf(l.Lambda()), at, 1e-12)
		}
		noise, data := p.At(p.fromNoise(0)), p.At(p.fromNoise(1))
		if data.Alpha != 1 || data.Sigma != 0 || p.Kind != VP && (noise.Alpha != 0 || noise.Sigma != 1) {
			t.Errorf("%v goes from %+v to %+v", p, noise, data)
		}
	}
}

// Whatever a network predicts, everything else about the sample follows from it.
func TestConversions(t *testing.T) {
	const x0, eps = 0.8, -1.3
	for _, p := range paths {
		for _, at := range []float64{0.001, 0.4, 0.97} {
			l := p.At(at)
			x := l.Alpha*x0 + l.Sigma*eps
			truth := map[Prediction]float64{
				Noise: eps, Data: x0, Velocity: l.DAlpha*x0 + l.DSigma*eps, Score: -eps / l.Sigma,
			}
			for _, from := range kinds {
				for to, m := range map[Prediction]Mix{
					Noise: l.NoiseFrom(from), Data: l.DataFrom(from), Velocity: l.VelocityFrom(from),
					Score: l.ScoreFrom(from),
				} {
					got := m.X*x + m.Output*truth[from]
					checkNear(t, string(to)+" from "+string(from), got, truth[to], 1e-9*max(1, math.Abs(truth[to])))
				}
			}
		}
	}
	// A velocity tells all at pure noise too, where a network's noise does not tell the data.
	l := Path{Kind: Linear}.At(0)
	if m := l.DataFrom(Velocity); m != (Mix{1, 1}) {
		t.Errorf("data from a velocity at noise: %+v", m)
	}
	if m := l.DataFrom(Noise); !math.IsInf(m.Output, -1) {
		t.Errorf("data from noise at noise: %+v", m)
	}
}

// check_interval of SiT.
func TestIntervals(t *testing.T) {
	linear, vp := Path{Kind: Linear}, Path{Kind: VP}
	sde := func(p Prediction) (float64, float64) { return linear.SDEInterval(p, 0.04) }
	for _, c := range []struct {
		what       string
		lo, hi     float64
		want0, to1 float64
	}{
		pair("velocity trains", linear.TrainInterval, Velocity, 0, 1),
		pair("noise trains", linear.TrainInterval, Noise, 1e-3, 1-1e-3),
		pair("VP trains", vp.TrainInterval, Velocity, 0, 1-1e-5),
		pair("velocity", linear.SampleInterval, Velocity, 0, 1),
		pair("score", linear.SampleInterval, Score, 1e-3, 1-1e-3),
		pair("VP", vp.SampleInterval, Score, 0, 1-1e-3),
		pair("turned trains", Path{VP, true}.TrainInterval, Noise, 1e-5, 1),
		pair("turned", Path{Linear, true}.SampleInterval, Noise, 1-1e-3, 1e-3),
		pair("SDE", sde, Velocity, 0, 0.96),
		pair("SDE of score", sde, Score, 1e-3, 0.96),
		pair("SDE without last step", func(p Prediction) (float64, float64) { return vp.SDEInterval(p, 0) },
			Velocity, 0, 1-1e-3),
	} {
		checkNear(t, c.what+": start", c.lo, c.want0, 1e-15)
		checkNear(t, c.what+": end", c.hi, c.to1, 1e-15)
	}
}

func pair(what string, f func(Prediction) (float64, float64), p Prediction, start, end float64) (c struct {
	what       string
	lo, hi     float64
	want0, to1 float64
}) {
	c.what, c.want0, c.to1 = what, start, end
	c.lo, c.hi = f(p)
	return c
}

func TestMinSNR(t *testing.T) {
	s, err := New(LinearBetas(1000))
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.MinSNR(5)
	if err != nil {
		t.Fatal(err)
	}
	for step, want := range map[int]float64{0: 5.0005e-4, 10: 0.0109912, 100: 0.58570851, 129: w[129], 130: 1, 999: 1} {
		checkNear(t, "weight", w[step], want, 1e-8+1e-5*want)
	}
	if !(w[129] < 1) {
		t.Errorf("weight of step 129 is %v, want less than 1", w[129])
	}
	if _, err := s.MinSNR(0); err == nil || !strings.Contains(err.Error(), "want a positive number") {
		t.Errorf("gamma 0: %v", err)
	}
}

func TestNamesOfPredictionsAndPaths(t *testing.T) {
	if _, err := ParsePrediction("eps"); err == nil || !strings.Contains(err.Error(), "want noise, velocity") {
		t.Error(err)
	}
	if p, err := ParsePrediction("data"); p != Data || err != nil {
		t.Error(p, err)
	}
	if _, err := ParsePath("cosine", false); err == nil || !strings.Contains(err.Error(), "want linear, gvp or vp") {
		t.Error(err)
	}
	if p, err := ParsePath("gvp", true); p != (Path{GVP, true}) || err != nil {
		t.Error(p, err)
	}
}
