package solver

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// longRuns are solvers with the grids of long runs, on networks whose paths bend.
func longRuns(t *testing.T, steps int) map[string]struct {
	Config
	model diffusion.Denoiser
} {
	t.Helper()
	sit, repa := schedule.Path{Kind: schedule.Linear}, schedule.Path{Kind: schedule.GVP, NoiseAtOne: true}
	grid := func(g schedule.Grid, err error) schedule.Grid {
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	onSiT := grid(sit.Grid(schedule.Linspace, steps, 0, 1, 1))
	onREPA := grid(repa.Grid(schedule.Linspace, steps, 1, 0, 1))
	onDiT := grid(schedule.DiTGrid(schedule.Linspace, steps, schedule.FinalZero))
	toDiT := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		return s.Add(s.MulScalar(x, 0.3), s.MulScalar(s.Sin(s.MulScalar(s.Reshape(
			s.To(t, torch.Float32), -1, 1, 1, 1), 0.01)), 0.1))
	}
	return map[string]struct {
		Config
		model diffusion.Denoiser
	}{
		"euler":                    {Config{Name: "euler", Path: &sit, Grid: onSiT}, toy},
		"dpm++2m on a path":        {Config{Name: "dpm++2m", Path: &sit, Grid: onSiT}, toy},
		"unipc2 with noise at one": {Config{Name: "unipc2", Path: &repa, Grid: onREPA}, toy},
		"ddim":                     {Config{Name: "ddim", Grid: onDiT}, toDiT},
		"dpm++3m":                  {Config{Name: "dpm++3m", Grid: onDiT}, toDiT},
		"deis3":                    {Config{Name: "deis3", Grid: onDiT}, toDiT},
		"unipc3":                   {Config{Name: "unipc3", Grid: onDiT}, toDiT},
	}
}

// through draws by the levels of c.Grid with these numbers.
func through(t *testing.T, s *torch.Scope, c Config, levels []int, model diffusion.Denoiser, z *torch.Tensor,
) *torch.Tensor {
	t.Helper()
	long := c.Grid
	c.Grid = nil
	for _, i := range levels {
		c.Grid = append(c.Grid, long[i])
	}
	return draw(t, s, linear(t, s, c), always(model), z, nil)
}

func rmsOf(s *torch.Scope, a, b *torch.Tensor) float64 {
	return math.Sqrt(s.Mean(s.Square(s.To(s.Subtract(a, b), torch.Float64))).Item())
}

func every(from, steps int) (levels []int) {
	for i := range steps + 1 {
		levels = append(levels, (2*i*from+steps)/(2*steps))
	}
	return levels
}

// A schedule that was searched on some samples brings others at least as near to the long run as even steps do.
func TestSearchedStepsBeatEvenOnes(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Sin(s.MulScalar(s.AddScalar(s.Arange(64, torch.Float32), 1), 37)) // in no order
		seen, others := s.Reshape(s.MulScalar(z, 1.4), 16, 1, 2, 2), s.Reshape(s.MulScalar(z, -1.1), 16, 1, 2, 2)
		const long, n = 48, 6
		for what, c := range longRuns(t, long) {
			search, err := NewSearch(c.Config, n)
			if err != nil {
				t.Fatal(err)
			}
			made, reported := 0, 0
			model := func(float64) diffusion.Denoiser { return counted(c.model, &made) }
			levels, rms, err := search.Run(s, model, seen, func(calls int) error { reported = calls; return nil })
			if err != nil {
				t.Fatal(err)
			}
			if made != search.Calls() || reported != made {
				t.Errorf("%s: %d calls, %d reported, want %d", what, made, reported, search.Calls())
			}
			if len(levels) != n+1 || levels[0] != 0 || levels[n] != long || !slices.IsSorted(levels) {
				t.Errorf("%s: levels %v", what, levels)
			}
			all := every(long, long)
			// The run that the search ends with is the one that the solver makes on such a grid.
			drawn := through(t, s, c.Config, levels, c.model, seen)
			want := rmsOf(s, drawn, through(t, s, c.Config, all, c.model, seen))
			if !(math.Abs(rms-want) <= 1e-6+1e-4*want) {
				t.Errorf("%s: the search says %v, its schedule is %v off", what, rms, want)
			}
			for name, z := range map[string]*torch.Tensor{"seen": seen, "others": others} {
				truth := through(t, s, c.Config, all, c.model, z)
				searched := rmsOf(s, through(t, s, c.Config, levels, c.model, z), truth)
				even := rmsOf(s, through(t, s, c.Config, every(long, n), c.model, z), truth)
				t.Logf("%s, %s: %.3g searched %v, %.3g even", what, name, searched, levels, even)
				if !(searched <= even) {
					t.Errorf("%s, %s samples: searched steps are %.3g from the long run, even ones %.3g", what, name,
						searched, even)
				}
			}
		}
		return nil
	})
}

// Of two steps the search finds the best of all ways.
func TestSearchOfTwoStepsIsExhaustive(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Reshape(s.AddScalar(s.MulScalar(s.Arange(8, torch.Float32), 0.3), -1), 2, 1, 2, 2)
		const long = 12
		for what, c := range longRuns(t, long) {
			truth := through(t, s, c.Config, every(long, long), c.model, z)
			best, least := 0, math.Inf(1)
			for i := 1; i < long; i++ {
				if e := rmsOf(s, through(t, s, c.Config, []int{0, i, long}, c.model, z), truth); e < least {
					best, least = i, e
				}
			}
			search, err := NewSearch(c.Config, 2)
			if err != nil {
				t.Fatal(err)
			}
			model := func(float64) diffusion.Denoiser { return c.model }
			levels, _, err := search.Run(s, model, z, func(int) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(levels, []int{0, best, long}) {
				t.Errorf("%s: %v, the best way is by %d", what, levels, best)
			}
		}
		return nil
	})
}

func TestSearchRefuses(t *testing.T) {
	path := &schedule.Path{Kind: schedule.Linear}
	g, err := path.Grid(schedule.Linspace, 10, 0, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]struct {
		Config
		n int
	}{
		"solver sde-euler: it adds noise, so no two runs": {Config{Name: "sde-euler", Path: path, Grid: g[:9]}, 4},
		"solver ddim: it adds noise":                      {Config{Name: "ddim", Path: path, Grid: g, Eta: 1}, 4},
		"solver heun: it asks the network more than once": {Config{Name: "heun", Path: path, Grid: g}, 4},
		"solver dopri5: it chooses its steps itself":      {Config{Name: "dopri5", Path: path}, 4},
		"solver euler: a schedule is searched from noise": {
			Config{Name: "euler", Path: path, Grid: g, Reverse: true}, 4,
		},
		"10 steps of 10: want 2 to 9": {Config{Name: "euler", Path: path, Grid: g}, 10},
		"1 steps of 10: want 2 to 9":  {Config{Name: "euler", Path: path, Grid: g}, 1},
		"solver plms: unknown":        {Config{Name: "plms", Path: path, Grid: g}, 4},
	} {
		if _, err := NewSearch(c.Config, c.n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	stop := errors.New("stop")
	torchtest.Run(t, func(s *torch.Scope) error {
		z := s.Zeros(torch.Float32, 1, 1, 1, 1)
		run := func(model diffusion.Denoiser, limit int) error {
			search, err := NewSearch(Config{Name: "euler", Path: path, Grid: g}, 4)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = search.Run(s, func(float64) diffusion.Denoiser { return model }, z, func(calls int) error {
				if calls == limit {
					return stop
				}
				return nil
			})
			return err
		}
		for _, limit := range []int{3, 10, 11, 12, 20} { // in the long run and in the steps
			if err := run(toy, limit); err != stop {
				t.Errorf("a stop after %d calls: %v", limit, err)
			}
		}
		rough := func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
			return s.Div(x, s.Zeros(torch.Float32, 1))
		}
		if err := run(rough, 0); err == nil || !strings.Contains(err.Error(), "are not finite numbers") {
			t.Errorf("a network that answers with no numbers: %v", err)
		}
		return nil
	})
}

// The times that a search returns make the grid that it searched in, whatever grid the long run has.
func TestTimesOfSearchMakeItsGrid(t *testing.T) {
	repa := &schedule.Path{Kind: schedule.Linear, NoiseAtOne: true}
	for what, c := range map[string]Config{
		"DiT":           {Name: "dpm++2m", Steps: 20},
		"DiT on karras": {Name: "deis2", Steps: 200, Spacing: schedule.Karras},
		"shifted":       {Name: "unipc2", Steps: 12, Path: repa, Shift: 3},
		"a VP":          {Name: "euler", Steps: 12, Path: &schedule.Path{Kind: schedule.VP}, Spacing: schedule.Lambda},
	} {
		search, err := NewSearch(c, 5)
		if err != nil {
			t.Fatal(err)
		}
		if what == "DiT on karras" && (search.Long() >= 200 || search.Long() < 100) {
			t.Errorf("%d of 200 steps that are told apart", search.Long())
		}
		levels := []int{0, 2, 3, 7, search.Long() - 1, search.Long()}
		c.Times, c.Steps, c.Spacing = search.Times(levels), 0, ""
		got, err := c.Plan()
		if err != nil {
			t.Fatal(err)
		}
		want, err := search.Plan(levels)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.calls, want.calls) {
			t.Errorf("%s: times %v make another grid", what, c.Times)
		}
	}
}
