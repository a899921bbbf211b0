package scaling

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// planted returns points of the law 0.3 x^-exponent, whose values have noise, and whose means scatter about the law.
func planted(random *rand.Rand, n, values int, exponent, noise, scatter float64) (points []Point) {
	for i := range n {
		x := math.Pow(10, float64(i)/2)
		mean := 0.3 * math.Pow(x, -exponent) * math.Exp(scatter*random.NormFloat64())
		p := Point{X: x}
		for range values {
			p.Values = append(p.Values, mean*(1+noise*random.NormFloat64()))
		}
		points = append(points, p)
	}
	return points
}

// In 95 of 100 cases the exponent that the points were made with is in the interval: of 200 in 190, where the noise of
// the means is a floor for the scatter. Without noise the share is 95 % exactly, and 184 is two standard deviations of
// such a count below 190. An interval that forgets the scatter, or that it is known from few points, is far below.
func TestIntervalsHoldWhatWasPlanted(t *testing.T) {
	for _, c := range []struct {
		name                string
		points, values      int
		noise, scatter      float64
		atLeast, narrowThan float64
	}{
		{"noise alone", 8, 40, 0.03, 0, 0.95, 0.02},
		{"scatter", 8, 40, 0.03, 0.02, 0.95, 0.06},
		{"three points with scatter", 3, 40, 0.03, 0.02, 0.95, 2},
		{"exact values with scatter", 12, 1, 0, 0.1, 0.92, 0.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, 7))
			const cases = 200
			within, width := 0, 0.0
			for seed := range uint64(cases) {
				law, err := Fit(planted(random, c.points, c.values, 0.12, c.noise, c.scatter), seed)
				if err != nil {
					t.Fatal(err)
				}
				e := law.ExponentInterval()
				if e.Low <= 0.12 && 0.12 <= e.High {
					within++
				}
				width += (e.High - e.Low) / cases
			}
			t.Logf("%d of %d, mean width %.4f", within, cases, width)
			if float64(within) < c.atLeast*cases {
				t.Errorf("%d of %d intervals hold the planted exponent, want %.0f %%", within, cases, 100*c.atLeast)
			}
			if width > c.narrowThan {
				t.Errorf("the intervals are %.3f wide, want less than %.3f", width, c.narrowThan)
			}
		})
	}
}

func TestPredictionHoldsALargerModel(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	const cases = 200
	within := 0
	for seed := range uint64(cases) {
		all := planted(random, 6, 40, 0.12, 0.03, 0.01)
		law, err := Fit(all[:5], seed)
		if err != nil {
			t.Fatal(err)
		}
		p := law.Predict(all[5].X)
		if truth := all[5].Mean(); p.Low <= truth && truth <= p.High {
			within++
		}
		if m := law.Mean(all[5].X); m.High-m.Low > 1.05*(p.High-p.Low) {
			t.Fatalf("the interval of the law %v is wider than that of a measurement %v", m, p)
		}
	}
	if within < cases*95/100-6 {
		t.Errorf("%d of %d predictions hold the measurement", within, cases)
	}
}

func TestExactLaw(t *testing.T) {
	law, err := Fit([]Point{{1, []float64{2}}, {4, []float64{1}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := law.ExponentInterval()
	if math.Abs(e.Value-0.5) > 1e-12 || e.Low != e.Value || e.High != e.Value || math.Abs(law.At(16)-0.5) > 1e-12 {
		t.Errorf("exponent %v and %g at 16, want 0.5 and 0.5", e, law.At(16))
	}
	again, _ := Fit([]Point{{1, []float64{2, 3}}, {4, []float64{1, 2}}}, 5)
	same, _ := Fit([]Point{{1, []float64{2, 3}}, {4, []float64{1, 2}}}, 5)
	if again.ExponentInterval() != same.ExponentInterval() {
		t.Error("the same seed gives another interval")
	}
}

func TestFitRefuses(t *testing.T) {
	for want, points := range map[string][]Point{
		"2 points, not 1":           {{1, []float64{1}}},
		"without a value":           {{1, []float64{1}}, {2, nil}},
		"not -1":                    {{1, []float64{1}}, {2, []float64{-1}}},
		"not 0":                     {{0, []float64{1}}, {2, []float64{1}}},
		"not NaN":                   {{1, []float64{1}}, {2, []float64{1, math.NaN()}}},
		"not +Inf":                  {{1, []float64{1}}, {math.Inf(1), []float64{1}}},
		"at two places, and all at": nil,
	} {
		if points == nil {
			continue
		}
		if _, err := Fit(points, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", points, err, want)
		}
	}
	if _, err := Fit([]Point{{3, []float64{1}}, {3, []float64{2}}, {3, []float64{1}}}, 0); err == nil ||
		!strings.Contains(err.Error(), "all are at 3") {
		t.Errorf("points at one place: %v", err)
	}
}

// run is a curve of steps of 64 pictures, whose loss falls to floor.
func run(macs float64, steps int, loss func(step float64) float64) Curve {
	c := Curve{MACs: macs}
	for i := 1; i <= steps; i++ {
		c.Images = append(c.Images, float64(64*i))
		c.Losses = append(c.Losses, loss(float64(i)))
	}
	return c
}

func TestAtEqualImages(t *testing.T) {
	linear := func(step float64) float64 { return step }
	points, images := AtEqualImages([]Curve{run(1e9, 100, linear), run(2e9, 50, linear)})
	if images != 3200 {
		t.Errorf("compared at %g pictures, want 3,200", images)
	}
	for i, p := range points { // of the last tenth of 50 steps
		if len(p.Values) != 5 || p.Mean() != 48 || p.X != float64(i+1)*1e9 {
			t.Errorf("run %d: %v", i, p)
		}
	}
	c := run(1e9, 100, linear)
	if c.At(63) != nil || c.At(6401) != nil || len(c.At(64)) != 1 {
		t.Error("losses of pictures before the first and after the last step")
	}
}

// A small model falls at once and stops, a large one falls slowly and further: each is the best for some budget.
func TestFrontier(t *testing.T) {
	small := run(1e9, 1000, func(s float64) float64 { return 0.5 + math.Exp(-s/10) })
	large := run(10e9, 1000, func(s float64) float64 { return 0.2 + math.Exp(-s/20) })
	best := Frontier([]Curve{small, large})
	if len(best) < numBudgets/2 {
		t.Fatalf("%d budgets", len(best))
	}
	if best[0].Run != 0 || best[len(best)-1].Run != 1 {
		t.Errorf("the run for the least budget is %d and for the largest %d, want 0 and 1", best[0].Run,
			best[len(best)-1].Run)
	}
	for i, b := range best[1:] {
		if b.Run < best[i].Run {
			t.Errorf("a larger budget takes the smaller model: %v", best)
		}
	}
	if Frontier([]Curve{small}) != nil {
		t.Error("a frontier of one run")
	}
	if apart := Frontier([]Curve{run(1, 10, func(float64) float64 { return 1 }), large}); len(apart) != 0 {
		t.Errorf("runs without a common budget: %v", apart)
	}
}

// The paper's figures 2 and 8: FID falls with Gflops at every size of patch and of model, more than with parameters.
func TestPaper(t *testing.T) {
	var gflops, params, fid []float64
	sum := 0.0
	byName := map[string]PaperModel{}
	for _, m := range Paper() {
		gflops, params, fid = append(gflops, m.Gflops), append(params, m.MillionParams), append(fid, m.FID)
		sum += m.Gflops
		byName[m.Name] = m
	}
	// 12 d^2 T + 2 T^2 d a layer and the modulation, within what two digits after the point show.
	for _, m := range Paper() {
		d, tokens := float64(m.HiddenSize), math.Pow(float64(32/m.PatchSize), 2)
		macs := float64(m.Depth) * (12*tokens*d*d + 2*tokens*tokens*d + 6*d*d) / 1e9
		if math.Abs(macs-m.Gflops) > 0.01+0.01*m.Gflops {
			t.Errorf("%s: %.2f by its size, %.2f in the table", m.Name, macs, m.Gflops)
		}
	}
	if of := sum / byName["DiT-XL/2"].Gflops; math.Abs(of-2.51) > 0.005 {
		t.Errorf("all twelve are %.3f times DiT-XL/2, want 2.51", of)
	}
	for _, size := range []string{"S", "B", "L", "XL"} {
		a, b, c := byName["DiT-"+size+"/8"], byName["DiT-"+size+"/4"], byName["DiT-"+size+"/2"]
		if !(a.Gflops < b.Gflops && b.Gflops < c.Gflops && a.FID > b.FID && b.FID > c.FID) {
			t.Errorf("patches of %s: %v %v %v", size, a, b, c)
		}
	}
	byGflops, byParams := correlation(gflops, fid), correlation(params, fid)
	t.Logf("correlation of FID with log Gflops %.3f, with log parameters %.3f", byGflops, byParams)
	if math.Abs(byGflops+0.93) > 0.005 { // figure 2
		t.Errorf("correlation with log Gflops %.3f, the paper has -0.93", byGflops)
	}
	if byParams < byGflops {
		t.Errorf("parameters say more than Gflops: %.3f and %.3f", byParams, byGflops)
	}
}

// correlation returns Pearson's correlation of the logarithm of x with y, which the paper's figures 2 and 8 give for
// Gflops and FID.
func correlation(x, y []float64) float64 {
	n := float64(len(x))
	logs := make([]float64, len(x))
	mx, my := 0.0, 0.0
	for i := range x {
		logs[i] = math.Log(x[i])
		mx += logs[i] / n
		my += y[i] / n
	}
	xx, yy, xy := 0.0, 0.0, 0.0
	for i := range x {
		dx, dy := logs[i]-mx, y[i]-my
		xx, yy, xy = xx+dx*dx, yy+dy*dy, xy+dx*dy
	}
	return xy / math.Sqrt(xx*yy)
}
