package solver

import (
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func TestNewRefuses(t *testing.T) {
	sit, repa := &schedule.Path{Kind: schedule.Linear}, &schedule.Path{Kind: schedule.Linear, NoiseAtOne: true}
	torchtest.Run(t, func(s *torch.Scope) error {
		for want, c := range map[string]Config{
			"solver plms: unknown: want ddim, dpm++1, ":            {Name: "plms", Steps: 8},
			"solver euler: it follows the velocity of a flow":      {Name: "euler", Steps: 8},
			"solver dopri5: it follows the velocity of a flow":     {Name: "dopri5"},
			"solver sde-heun: it follows the velocity of a flow":   {Name: "sde-heun", Steps: 8},
			"solver ddpm: it draws from the reverse step of DiT's": {Name: "ddpm", Steps: 8, Path: sit},
			"solver ddpm: unknown: want ddim":                      {Name: "ddpm", Steps: 8},
			"DiT's betas have no velocity: want a prediction": {
				Name: "ddim", Steps: 8, Prediction: schedule.Velocity,
			},
			`prediction "eps": want noise`: {Name: "ddim", Steps: 8, Prediction: "eps"},
			`path "cosine": want linear`: {
				Name: "ddim", Steps: 8, Path: &schedule.Path{Kind: "cosine"},
			},
			"solver euler: time 1.5 is outside of 0 to 1": {
				Name: "euler", Steps: 8, Path: sit, End: 1.5,
			},
			"solver dopri5: time -1 is outside of 0 to 1": {
				Name: "dopri5", Path: sit, Start: -1, End: 1,
			},
			"solver euler: time 0 after 1: want times from noise": {
				Name: "euler", Steps: 8, Path: sit, Start: 1,
			},
			"timestep shift -1: want a positive number": {
				Name: "euler", Steps: 8, Path: sit, Shift: -1,
			},
			"solver ddim: a shift is for flows":             {Name: "ddim", Steps: 8, Shift: 3},
			"solver ddim: an interval of time is for flows": {Name: "ddim", Steps: 8, Start: 1},
			"solver dpm++2m: eta is for ddim":               {Name: "dpm++2m", Steps: 8, Eta: 1},
			"solver ddim: eta 2: want 0 to 1":               {Name: "ddim", Steps: 8, Eta: 2},
			"a last step of Euler is for heun": {
				Name: "rk4", Steps: 8, Path: sit, EulerLast: true,
			},
			"the way back to noise is for ddim without eta": {
				Name: "ddim", Steps: 8, Eta: 1, Reverse: true,
			},
			"solver ddim: a correction is for ddim's way back": {Name: "ddim", Steps: 8, Corrections: 1},
			"solver rk4: a correction is for ddim's way back": {
				Name: "rk4", Steps: 8, Path: sit, Reverse: true, Corrections: 1,
			},
			"solver ddim: -1 corrections: want 0 or more": {Name: "ddim", Steps: 8, Reverse: true, Corrections: -1},
			"solver sde-euler: the way back to noise is for": {
				Name: "sde-euler", Steps: 8, Path: sit, Reverse: true,
			},
			"solver dopri5: a number of steps is for solvers with": {Name: "dopri5", Steps: 8, Path: sit},
			"solver dopri5: tolerances -1 and 0.001: want positive": {
				Name: "dopri5", Path: sit, Dopri5: Tolerance{Absolute: -1},
			},
			"bh1 has no step to a level free of noise":           {Name: "unipc2-bh1", Steps: 8},
			"solver unipc3-bh1: bh1 has no step to a level free": {Name: "unipc3-bh1", Steps: 8, Path: repa},
			"solver deis2: grid leading is for DiT's 1000 steps": {
				Name: "deis2", Steps: 8, Path: sit, Spacing: schedule.Leading,
			},
			"solver sde-euler: 1 steps: want at least 2": {Name: "sde-euler", Steps: 1, Path: sit},
			"solver ddim: 0 steps on DiT's 1000":         {Name: "ddim"},
			"diffusion form SBDM divides by zero at time 0 of path": {
				Name: "sde-euler", Steps: 8, Path: sit, SDE: SDE{Form: FormSBDM},
			},
			"diffusion form SBDM divides by zero at time 1 of path": {
				Name: "sde-heun", Steps: 8, Path: repa, SDE: SDE{Form: FormSBDM},
			},
			`diffusion form "inccreasing-decreasing": want constant`: {
				Name: "sde-euler", Steps: 8, Path: sit, SDE: SDE{Form: "inccreasing-decreasing"},
			},
			"diffusion form sigma of norm -1 is -1 at time 0: want": {
				Name: "sde-euler", Steps: 8, Path: sit, SDE: SDE{Norm: -1},
			},
			`last step "mean": want Mean`: {
				Name: "sde-euler", Steps: 8, Path: sit, SDE: SDE{Last: "mean"},
			},
			"step 1 of 8 divides by zero at time 0: the prediction": {
				Name: "euler", Steps: 8, Path: sit, Prediction: schedule.Noise, End: 1,
			},
			"step 16 of 16 divides by zero at time 1: the prediction": {
				Name: "heun", Steps: 8, Path: sit, Prediction: schedule.Data, Start: 0.1, End: 1,
			},
			"solver dpm++1: a grid of one level: want": {Name: "dpm++1", Grid: make(schedule.Grid, 1)},
			"solver dopri5: a number of steps is": {
				Name: "dopri5", Path: sit, Grid: make(schedule.Grid, 3),
			},
			"solver dopri5: a number of steps is for solvers": {Name: "dopri5", Path: sit, Times: []float64{0, 0.5}},
			"timestep 500 after 200: want falling ones":       {Name: "ddim", Times: []float64{999, 200, 500}},
			"timestep 0.5: want a whole number from 0":        {Name: "ddim", Times: []float64{0.5}},
			"time 0.4 after 0.5: want times": {
				Name: "euler", Path: sit, Times: []float64{0, 0.5, 0.4},
			},
			"solver sde-euler: one time: want at least 2": {Name: "sde-euler", Path: sit, Times: []float64{0}},
			"step 14 of 14 divides by zero at time 1: the prediction": {
				Name: "sde-heun", Steps: 7, Path: sit, SDE: SDE{Last: LastNone},
			},
		} {
			if _, err := New(s, c); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		full, err := schedule.New(schedule.LinearBetas(1000))
		if err != nil {
			return err
		}
		// SBDM goes where its time begins off noise, and constant, an error in SiT, goes everywhere.
		for _, c := range []Config{
			{Name: "sde-euler", Steps: 8, Path: sit, Start: 0.001, End: 0.96, SDE: SDE{Form: FormSBDM}},
			{Name: "sde-heun", Steps: 8, Path: &schedule.Path{Kind: schedule.VP}, SDE: SDE{Form: FormSBDM}},
			{Name: "sde-euler", Steps: 8, Path: repa, SDE: SDE{Form: FormConstant, Norm: 0.5}},
			{Name: "unipc2", Grid: full.Grid()},
		} {
			construct(t, s, c)
		}
		return nil
	})
}
