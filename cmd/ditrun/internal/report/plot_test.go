package report

import (
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gonum.org/v1/plot/plotter"

	"github.com/ditrun/ditrun/diffusion/runs"
)

// curve imitates a training loss: a fast fall, a slow one, noise.
func curve(n, every int) []point {
	r := rand.New(rand.NewPCG(1, 2))
	points := make([]point, n)
	for i := range points {
		step := (i + 1) * every
		loss := 0.16 + 0.9*math.Exp(-float64(step)/40) + 0.15/math.Sqrt(float64(step))
		points[i] = point{step: step, loss: loss * math.Exp(0.06*r.NormFloat64())}
	}
	return points
}

// binned adds errors by timestep, some of which are not known.
func binned(points []point) []point {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range points {
		for bin := range 10 {
			v := points[i].loss * 3 * math.Exp(-0.45*float64(bin)) * math.Exp(0.1*r.NormFloat64())
			if r.IntN(12) == 0 {
				v = math.NaN()
			}
			points[i].bins = append(points[i].bins, runs.Number(v))
		}
	}
	return points
}

func TestPlotLoss(t *testing.T) {
	spike := curve(300, 10)
	spike[120].loss = math.NaN()
	spike[200].loss = 40
	negative := curve(50, 10)
	for i := range negative {
		negative[i].loss -= 0.25
	}
	partly := binned(curve(120, 50))
	for i := range partly[:40] {
		partly[i].bins = nil // of an older version
	}
	nothing := curve(3, 1)
	nothing[0].bins = []runs.Number{runs.Number(math.NaN()), runs.Number(math.Inf(1))}
	for name, points := range map[string][]point{
		"demo.png":     curve(200, 10),
		"long.png":     curve(40000, 100),
		"spike.png":    spike,
		"one.png":      curve(1, 1),
		"bins.png":     binned(curve(400, 100)),
		"binslong.png": binned(curve(20000, 100)),
		"bins1.png":    binned(curve(1, 100)),
		"binsof.png":   partly,
		"nobins.png":   nothing,
		"three.png":    curve(3, 1),
		"negative.png": negative,
		"nan.png":      {{step: 100, loss: math.NaN()}, {step: 200, loss: math.Inf(1)}},
	} {
		path := filepath.Join(t.TempDir(), name)
		// For looking at: PICTURES=dir go test.
		if dir := os.Getenv("PICTURES"); dir != "" {
			path = filepath.Join(dir, name)
		}
		if err := plotLoss(path, "DiT-S/2", points); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(f)
		f.Close()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		height := 675
		if strings.HasPrefix(name, "bins") {
			height = 1275
		}
		if s := img.Bounds().Size(); s.X != 1200 || s.Y != height {
			t.Errorf("%s is %v, want 1200x%d", name, s, height)
		}
	}
}

func TestRunningMean(t *testing.T) {
	points := curve(1000, 10)
	points[3].loss = math.NaN()
	raw, smooth := curves(points, func(pt point) float64 { return pt.loss })
	if len(raw) != 999 || len(smooth) != 999 {
		t.Fatalf("%d and %d points, want 999: the NaN is left out", len(raw), len(smooth))
	}
	if math.Abs(smooth[0].Y-raw[0].Y) > 1e-12 {
		t.Errorf("mean starts at %g, want %g", smooth[0].Y, raw[0].Y)
	}
	if last := smooth[998].Y; math.Abs(last-0.16) > 0.01 {
		t.Errorf("mean ends at %g, want about 0.16", last)
	}
	for i := 20; i < 999; i++ {
		if dev := math.Abs(smooth[i].Y/raw[i].Y - 1); dev > 0.35 {
			t.Fatalf("point %d: mean %g is far from %g", i, smooth[i].Y, raw[i].Y)
		}
	}
	thinned := thin(append(raw, make(plotter.XYs, 9000)...))
	if len(thinned) != maxDrawn || thinned[0] != raw[0] {
		t.Errorf("thinned to %d points", len(thinned))
	}
}

func TestBinCurves(t *testing.T) {
	all := binCurves(binned(curve(300, 10)))
	if len(all) != 10 {
		t.Fatalf("%d curves, want 10", len(all))
	}
	for i, xys := range all {
		if len(xys) < 240 || len(xys) == 300 {
			t.Errorf("curve %d has %d points of 300, a twelfth of which are none", i, len(xys))
		}
		if i > 0 && xys[len(xys)-1].Y > all[i-1][len(all[i-1])-1].Y {
			t.Errorf("curve %d ends above curve %d", i, i-1)
		}
	}
	for name, points := range map[string][]point{
		"no bins":       curve(5, 1),
		"no finite one": {{step: 1, bins: []runs.Number{runs.Number(math.NaN()), runs.Number(math.Inf(-1))}}},
	} {
		if got := binCurves(points); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	for i, want := range map[int][2]int{0: {0, 99}, 1: {100, 199}, 9: {900, 999}} {
		if first, last := binRange(i, 10); first != want[0] || last != want[1] {
			t.Errorf("stretch %d is %d-%d, want %v", i, first, last, want)
		}
	}
}

func TestTickValues(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		want   []float64
	}{
		{0, 2000, []float64{0, 500, 1000, 1500, 2000}},
		{-0.1, 0.3, []float64{-0.1, 0, 0.1, 0.2, 0.3}},
		{0, 7e6, []float64{0, 1e6, 2e6, 3e6, 4e6, 5e6, 6e6, 7e6}},
	} {
		got := nice(c.lo, c.hi, 7)
		if len(got) != len(c.want) {
			t.Errorf("nice(%g, %g) = %v, want %v", c.lo, c.hi, got, c.want)
			continue
		}
		for i := range got {
			if math.Abs(got[i]-c.want[i]) > 1e-9 || math.Signbit(got[i]) != math.Signbit(c.want[i]) {
				t.Errorf("nice(%g, %g) = %v, want %v", c.lo, c.hi, got, c.want)
			}
		}
	}
	if got := logValues(0.13, 0.95); len(got) != 6 {
		t.Errorf("log axis: %v", got)
	}
	if got := logValues(0.1, 45); len(got) != 8 {
		t.Errorf("long log axis: %v", got)
	}
}

func TestStepLabel(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 2000: "2,000", 10000: "10k", 12500: "12.5k", 400000: "400k", 1e6: "1M", 7.5e6: "7.5M", 0.4: "",
	} {
		if got := stepLabel(v); got != want {
			t.Errorf("stepLabel(%g) = %q, want %q", v, got, want)
		}
	}
}
