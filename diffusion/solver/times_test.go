package solver

import (
	"math"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/diffusion/schedule"
)

// Steps at given times are those of the grid that has them, an SDE's with its last step.
func TestTimes(t *testing.T) {
	sit, repa := &schedule.Path{Kind: schedule.Linear}, &schedule.Path{Kind: schedule.GVP, NoiseAtOne: true}
	for what, c := range map[string]struct {
		grid Config
		by   []float64
	}{
		"DiT":        {Config{Name: "dpm++2m", Steps: 4}, []float64{999, 749, 500, 250}},
		"DEIS":       {Config{Name: "deis2", Steps: 4}, []float64{999, 749, 500, 250}},
		"a path":     {Config{Name: "heun", Steps: 4, Path: sit}, []float64{0, 0.25, 0.5, 0.75}},
		"downwards":  {Config{Name: "unipc2", Steps: 4, Path: repa}, []float64{1, 0.75, 0.5, 0.25}},
		"shifted":    {Config{Name: "euler", Steps: 2, Path: repa, Shift: 3}, []float64{1, 0.75}},
		"SDE":        {Config{Name: "sde-euler", Steps: 4, Path: sit}, []float64{0, 0.32, 0.64, 0.96}},
		"SDE down":   {Config{Name: "sde-euler", Steps: 3, Path: repa}, []float64{1, 0.52, 0.04}},
		"SDE's None": {Config{Name: "sde-euler", Steps: 2, Path: sit, SDE: SDE{Last: LastNone}}, []float64{0, 0.5}},
	} {
		want, err := c.grid.Plan()
		if err != nil {
			t.Fatal(err)
		}
		c.grid.Steps, c.grid.Times = 0, c.by
		got, err := c.grid.Plan()
		if err != nil {
			t.Fatal(err)
		}
		same := slices.EqualFunc(got.calls, want.calls, func(a, b call) bool {
			close := func(a, b float64) bool { return math.Abs(a-b) <= 1e-12*max(1, math.Abs(a)) }
			for i, row := range a.rows() {
				for j, v := range row {
					if !close(v, b.rows()[i][j]) {
						return false
					}
				}
			}
			return close(a.t, b.t) && a.draws == b.draws
		})
		if !same {
			t.Errorf("%s: steps at %v are not those of the grid", what, c.by)
		}
	}
}
