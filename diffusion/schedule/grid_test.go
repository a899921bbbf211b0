package schedule

import (
	"encoding/json"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Diffusers' grids on DiT's betas, by bench/parity/gen_goldens_flow.py. Times are equal; its noise levels are float32,
// and are equal to two of its ulps.
func TestDiTGridsEqualDiffusers(t *testing.T) {
	text, err := os.ReadFile("testdata/grids.json")
	if err != nil {
		t.Fatal(err)
	}
	var goldens map[string]struct{ T, Sigma []float64 }
	if err := json.Unmarshal(text, &goldens); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for name, want := range goldens {
		words := strings.Fields(name)
		n, _ := strconv.Atoi(words[len(words)-1])
		final := FinalZero
		if words[0] == "min" {
			final = FinalMin
		}
		g, err := DiTGrid(Spacing(words[len(words)-2]), n, final)
		if err != nil {
			t.Fatal(err)
		}
		if len(g) != n+1 || len(want.Sigma) != n+1 {
			t.Fatalf("%s: %d levels, original %d", name, len(g), len(want.Sigma))
		}
		for i, l := range g {
			if i < n && l.T != want.T[i] {
				t.Errorf("%s: step %d is told %v, original %v", name, i, l.T, want.T[i])
			}
			if r := want.Sigma[i]; !(math.Abs(l.Rho()-r) <= 2.4e-7*r) {
				t.Errorf("%s: level %d is %.9g, original %.9g", name, i, l.Rho(), r)
			}
			checkNear(t, name+": alpha^2 + sigma^2", l.Alpha*l.Alpha+l.Sigma*l.Sigma, 1, 1e-15)
		}
		compared++
	}
	if compared != 45 {
		t.Errorf("%d grids compared", compared)
	}
}

func times(t *testing.T, g Grid, err error) []float64 {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var out []float64
	for _, l := range g {
		out = append(out, l.T)
	}
	return out
}

// at checks some of the times, keyed by index.
func at(t *testing.T, what string, got []float64, n int, want map[int]float64) {
	t.Helper()
	if len(got) != n {
		t.Errorf("%s has %d levels, want %d", what, len(got), n)
		return
	}
	for i, v := range want {
		checkNear(t, what+" "+strconv.Itoa(i), got[i], v, 1e-5*v)
	}
}

// The numbers are those that the originals print.
func TestFlowGrids(t *testing.T) {
	sit, repa := Path{Kind: Linear}, Path{Kind: Linear, NoiseAtOne: true}
	g, err := sit.Grid(Linspace, 249, 0, 1, 0.3)
	at(t, "LightningDiT", times(t, g, err), 250, map[int]float64{0: 0, 1: 0.001208216, 2: 0.002423263,
		124: 0.229346486, 125: 0.232198142, 248: 0.986737401, 249: 1})
	g, err = repa.Grid(Linspace, 49, 1, 0.001, math.Sqrt(768*16*16/4096.))
	at(t, "RAE", times(t, g, err), 50, map[int]float64{0: 1, 1: 0.997005, 48: 0.131505, 49: 0.0068874})
	g, err = repa.Grid(Linspace, 8, 0.999, 0, 1)
	at(t, "DPM++ on flows", times(t, g, err), 9, map[int]float64{0: 0.999, 1: 0.874125, 7: 0.124875, 8: 0})
	g, err = repa.GridOf([]float64{1, 0.857286, 0.143714, 0.001, 0}, 3)
	// FlowMatchEuler shifts the last but one twice, to 0.00892857.
	at(t, "shifted once", times(t, g, err), 5, map[int]float64{0: 1, 3: 0.002994, 4: 0})

	for _, p := range paths {
		for spacing, f := range map[Spacing]func(Level) float64{
			Lambda: Level.Lambda, Karras: func(l Level) float64 { return math.Pow(l.Rho(), 1./7) },
		} {
			g, err := p.Grid(spacing, 10, p.fromNoise(0), p.fromNoise(1), 1)
			if err != nil {
				t.Fatal(err)
			}
			for i := 3; i < 10; i++ { // the ends are moved
				checkNear(t, string(spacing), f(g[i])-f(g[i-1]), f(g[2])-f(g[1]), 1e-9)
			}
			if g[0].T != p.fromNoise(0) || g[10].Sigma != 0 {
				t.Errorf("%v %s goes from %+v to %+v", p, spacing, g[0], g[10])
			}
		}
	}
}

func TestGridOfSchedule(t *testing.T) {
	full, err := New(LinearBetas(1000))
	if err != nil {
		t.Fatal(err)
	}
	s, err := full.Respace([]int{0, 500, 999})
	if err != nil {
		t.Fatal(err)
	}
	g := s.Grid()
	at(t, "respaced", times(t, g, nil), 4, map[int]float64{0: 999, 1: 500, 2: 0, 3: 0})
	checkNear(t, "alpha of 999", g[0].Alpha, 0.006352818088, 1e-12)
	if g[3].Sigma != 0 || g.Reversed()[1] != g[2] {
		t.Errorf("%+v", g)
	}
}

func TestGridsRefuse(t *testing.T) {
	linear, nan := Path{Kind: Linear}, math.NaN()
	for want, f := range map[string]func() (Grid, error){
		"0 steps on DiT's 1000: want 1 to 999":    func() (Grid, error) { return DiTGrid(Linspace, 0, FinalZero) },
		"1000 steps on DiT's 1000: want 1 to 999": func() (Grid, error) { return DiTGrid(Linspace, 1000, FinalZero) },
		`grid "even": want linspace`:              func() (Grid, error) { return DiTGrid("even", 8, FinalZero) },
		`final sigma "": want zero`:               func() (Grid, error) { return DiTGrid(Linspace, 8, "") },
		"timestep 500 after 400: want":            func() (Grid, error) { return DiTGridOf([]float64{400, 500}, "") },
		"timestep 1.5: want a whole number":       func() (Grid, error) { return DiTGridOf([]float64{1.5}, FinalZero) },
		"timestep 1000: want a whole number":      func() (Grid, error) { return DiTGridOf([]float64{1e3}, FinalZero) },
		"grid leading is for DiT's 1000 steps":    func() (Grid, error) { return linear.Grid(Leading, 8, 0, 1, 1) },
		`grid "": want linspace`:                  func() (Grid, error) { return linear.Grid("", 8, 0, 1, 1) },
		"0 steps: want at least 1":                func() (Grid, error) { return linear.Grid(Linspace, 0, 0, 1, 1) },
		"timestep shift 0: want a positive":       func() (Grid, error) { return linear.Grid(Linspace, 8, 0, 1, 0) },
		"timestep shift NaN: want a positive":     func() (Grid, error) { return linear.Grid(Linspace, 8, 0, 1, nan) },
		"time 1.1 is outside of 0 to 1":           func() (Grid, error) { return linear.Grid(Linspace, 1, 0, 1.1, 1) },
		"time -0.1 is outside of 0 to 1":          func() (Grid, error) { return linear.GridOf([]float64{-0.1, 1}, 1) },
		"time 0 after 1: want times from noise, at 0, to data, at 1": func() (Grid, error) {
			return linear.Grid(Linspace, 1, 1, 0, 1)
		},
		"time 0.5 after 0.5":     func() (Grid, error) { return linear.GridOf([]float64{0.5, 0.5}, 1) },
		"1 times: want at least": func() (Grid, error) { return linear.GridOf([]float64{0.5}, 1) },
	} {
		if _, err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
