package sampling

import (
	"math"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/dit"
)

// What no model can take is found without one, by a message that begins with the name of a flag.
func TestValidate(t *testing.T) {
	const ofFlows = `ddim, dpm++1, dpm++2m, dpm++2m-heun, dpm++3m, unipc1, unipc2, unipc3, deis1, deis2, deis3, ` +
		`euler, heun, midpoint, heun3, rk4, dopri5, sde-euler, sde-heun`
	sit := &dit.Process{Objective: "velocity", Path: "linear"}
	for _, c := range []struct {
		r    Request
		want string // "" for none
	}{
		{Request{}, ""},
		{Request{Labels: []int{-7, 1e9}, Steps: "ddim50", Solver: "ddim", RNG: "torch", CFGScale: 1e6,
			Guided: dit.GuideAll, BatchSize: 5}, ""},
		{Request{CFGScale: 0.5}, "cfg-scale 0.5: want a number from 1 (no guidance) up"},
		{Request{CFGScale: -1}, "cfg-scale -1: want a number from 1 (no guidance) up"},
		{Request{CFGScale: math.NaN()}, "cfg-scale NaN: want a number from 1 (no guidance) up"},
		{Request{CFGScale: math.Inf(1)}, "cfg-scale +Inf: want at most 1000000"},
		{Request{Steps: "0"}, `num-sampling-steps "0": keeps no step`},
		{Request{Solver: "euler"}, ""}, // some models can
		{Request{Solver: "eulr"}, `solver "eulr": want ddpm, ` + ofFlows},
		{Request{Timesteps: "even"}, `timesteps "even": want respaced, linspace, leading, trailing, karras, lambda, ` +
			"or times as in 999,850,400"},
		{Request{Timesteps: "999,8OO", Solver: "ddim"}, `timesteps 999,8OO: "8OO" is not a time: want the name of a ` +
			"grid, or times as in 999,850,400"},
		{Request{Timesteps: "999,", Solver: "ddim"}, `timesteps 999,: "" is not a time: want the name of a grid, or ` +
			"times as in 999,850,400"},
		{Request{Timesteps: "999,500", Solver: "ddim", Steps: "3"},
			"num-sampling-steps 3: timesteps lists the times of 2"},
		{Request{Timesteps: "999,500"}, ""}, // of a flow it would be another solver
		{Request{Timesteps: "999,500", Process: &dit.Process{}}, "timesteps 999,500: ddpm takes none but respaced"},
		{Request{Timesteps: "999,500", Solver: "dopri5"}, "timesteps 999,500: dopri5 chooses its steps itself"},
		{Request{Timesteps: "500,999", Solver: "ddim", Process: &dit.Process{}},
			"solver ddim: timestep 999 after 500: want falling ones"},
		{Request{Timesteps: "0,1.5", Solver: "euler", Process: sit}, "solver euler: time 1.5 is outside of 0 to 1"},
		{Request{Timesteps: "0.5,0", Process: sit},
			"solver sde-euler: time 0 after 0.5: want times from noise, at 0, to data, at 1"},
		{Request{GuidanceRescale: 0.5}, "guidance-rescale 0.5: has no effect without guidance, cfg-scale 1"},
		{Request{CFGScale: 2, GuidanceRescale: 1.5}, "guidance-rescale 1.5: want 0 (none) to 1"},
		{Request{CFGScale: 2, GuidanceRescale: math.NaN()}, "guidance-rescale NaN: want 0 (none) to 1"},
		{Request{CFGScale: 2, GuidanceRescale: 0.7}, ""},
		{Request{Guide: &dit.DiT{}}, "guide-ckpt: has no effect without guidance, cfg-scale 1"},
		{Request{Process: sit, SDE: solver.SDE{Form: "linear", Last: "Euler", LastSize: 0.02}}, ""},
		{Request{Process: sit, Solver: "euler", SDE: solver.SDE{Form: "linear"}}, "diffusion-form and last-step are " +
			"for SDEs: solver euler follows none, want sde-euler or sde-heun"},
		{Request{Process: &dit.Process{}, SDE: solver.SDE{Last: "Euler"}}, "diffusion-form and last-step are for " +
			"SDEs: solver ddpm follows none, want sde-euler or sde-heun"},
		{Request{Process: sit, SDE: solver.SDE{Form: "SBDM"}}, "solver sde-euler: diffusion form SBDM divides by " +
			"zero at time 0 of path linear, where alpha is 0: begin 0.001 from it"},
		{Request{Process: sit, SDE: solver.SDE{Form: "SBDM"}, Timesteps: "0.001,0.3,0.6,0.96"}, ""},
		{Request{Process: sit, SDE: solver.SDE{Form: "even"}}, `solver sde-euler: diffusion form "even": want ` +
			"constant, SBDM, sigma, linear, decreasing or increasing-decreasing"},
		{Request{Process: sit, SDE: solver.SDE{Last: "mean"}},
			`solver sde-euler: last step "mean": want Mean, Tweedie, Euler or None`},
		{Request{Process: sit, SDE: solver.SDE{LastSize: 0.1}, Timesteps: "0,0.9"},
			"last-step-size 0.1: the last step goes to data from the last of timesteps"},
		{Request{Process: sit, SDE: solver.SDE{LastSize: 1.5}}, "solver sde-euler: time -0.5 is outside of 0 to 1"},
		{Request{Solver: "dopri5", Steps: "50"}, "num-sampling-steps 50: dopri5 chooses its steps itself"},
		{Request{Solver: "dopri5", Timesteps: "karras"}, "timesteps karras: dopri5 chooses its steps itself"},
		{Request{CFGScale: 2, GuidanceInterval: [2]float64{0.7, 0.3}},
			"guidance-interval 0.7,0.3: want two times, the lower one first"},
		{Request{CFGScale: 2, GuidanceInterval: [2]float64{math.NaN(), 1}},
			"guidance-interval NaN,1: want two times, the lower one first"},
		{Request{GuidanceInterval: [2]float64{0.3, 0.7}},
			"guidance-interval 0.3,0.7: has no effect without guidance, cfg-scale 1"},
		{Request{CFGScale: 2, GuidanceInterval: [2]float64{0, 1200}},
			"guidance-interval 0,1200: want times of the model: 0 to 999 of DiT, 0 to 1 of flows"},
		{Request{CFGScale: 2, GuidanceInterval: [2]float64{-1, 0.5}},
			"guidance-interval -1,0.5: want times of the model: 0 to 999 of DiT, 0 to 1 of flows"},
		{Request{CFGScale: 2, GuidanceInterval: [2]float64{0, math.Inf(1)}},
			"guidance-interval 0,+Inf: want times of the model: 0 to 999 of DiT, 0 to 1 of flows"},
		{Request{CFGScale: 2, GuidanceInterval: [2]float64{0, 999}}, ""},
		{Request{CFGScale: 2, GuidanceInterval: [2]float64{0, 0.7}}, ""},
		{Request{Process: &dit.Process{}, CFGScale: 2, GuidanceInterval: [2]float64{0, 0.7}},
			"guidance-interval 0,0.7: the model's time runs from 0 to 999"},
		{Request{Process: &dit.Process{}, CFGScale: 2, GuidanceInterval: [2]float64{0, 1}},
			"guidance-interval 0,1: the model's time runs from 0 to 999"},
		{Request{Solver: "ddpm", CFGScale: 2, GuidanceInterval: [2]float64{500, 1000}},
			"guidance-interval 500,1000: the model's time runs from 0 to 999"},
		{Request{Process: &dit.Process{}, CFGScale: 2, GuidanceInterval: [2]float64{0, 700}}, ""},
		{Request{Process: sit, CFGScale: 2, Steps: "10", GuidanceInterval: [2]float64{0.3, 7}},
			"guidance-interval 0.3,7: the model's time runs from 0 to 1"},
		{Request{Process: sit, CFGScale: 2, Steps: "10", GuidanceInterval: [2]float64{-1, 0.7}},
			"guidance-interval -1,0.7: the model's time runs from 0 to 1"},
		{Request{Process: sit, CFGScale: 2, Steps: "10", GuidanceInterval: [2]float64{0.01, 0.02}},
			"guidance-interval 0.01,0.02: no step begins there"},
		{Request{Process: sit, Solver: "ddpm"},
			`solver "ddpm": the model predicts velocity on the linear path, noise at 0, data at 1: want ` + ofFlows},
		{Request{Process: sit, Steps: "10,15"},
			`num-sampling-steps "10,15": want a number of steps, 2 to 10000 for sde-euler`},
		{Request{Process: sit, Steps: "1"},
			`num-sampling-steps "1": want a number of steps, 2 to 10000 for sde-euler`},
		{Request{Process: sit, Steps: "1", Solver: "euler"}, ""},
		{Request{Process: &dit.Process{}, Solver: "dpm++2m", Steps: "1000"},
			`num-sampling-steps "1000": want a number of steps, 1 to 999 for dpm++2m`},
		{Request{Process: &dit.Process{}, Solver: "dpm++2m", Steps: "999"}, ""},
		{Request{Process: sit, Timesteps: "respaced"}, "timesteps respaced: that is for DiT's 1000 steps, a flow has " +
			"none: want linspace, karras, lambda"},
		{Request{Process: sit, Solver: "euler", Timesteps: "trailing"},
			"timesteps trailing: that is for DiT's 1000 steps, a flow has none: want linspace, karras, lambda"},
		{Request{Process: &dit.Process{}, Timesteps: "karras"}, "timesteps karras: ddpm takes none but respaced"},
		{Request{Process: sit, Solver: "unipc3-bh1", Steps: "20"}, `solver "unipc3-bh1": the model predicts ` +
			"velocity on the linear path, noise at 0, data at 1: want " + ofFlows},
		{Request{Process: &dit.Process{}, Solver: "dpm++2m", Timesteps: "respaced", Steps: "10,15,20"}, ""},
		{Request{RNG: "dice"}, `rng "dice": want image, torch`},
		{Request{BatchSize: -1}, "batch-size -1: want at least 0"},
		{Request{NumSamples: 4, RNG: "torch", BatchSize: 3},
			"batch-size 3: with rng torch all 4 pictures are drawn at once, as the original does"},
		{Request{First: -1}, "first picture -1: want 0 or more"},
	} {
		if err := c.r.Validate(); err == nil && c.want != "" || err != nil && err.Error() != c.want {
			t.Errorf("%+v: error %v, want %q", c.r, err, c.want)
		}
	}
}

func TestBalancedLabels(t *testing.T) {
	if got := BalancedLabels(3, 8); !slices.Equal(got, []int{0, 1, 2, 0, 1, 2, 0, 1}) {
		t.Errorf("%v", got)
	}
}
