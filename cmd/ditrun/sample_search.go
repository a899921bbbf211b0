package main

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/diffusion/solver"
)

// searchedSolver draws where the times are searched for, or were, and no solver is named.
const searchedSolver = "dpm++2m"

// checkSearch reads the flags about schedules that are searched and about SDEs.
func (o *sampleOptions) checkSearch(given func(string) bool) error {
	r := &o.request
	for flag, value := range map[string]*string{"diffusion-form": (*string)(&r.SDE.Form),
		"last-step": (*string)(&r.SDE.Last)} {
		if given(flag) && *value == "" {
			return refuseEmpty(required{flag, *value})
		}
	}
	if given("last-step-size") && !(r.SDE.LastSize > 0 && r.SDE.LastSize < 1) {
		return usagef("--last-step-size %v: want a part of the time from 0 to 1", r.SDE.LastSize)
	}
	if given("diffusion-norm") && (!(r.SDE.Norm > 0) || math.IsInf(r.SDE.Norm, 0)) {
		return usagef("--diffusion-norm %v: want a positive number, and a finite one, since noise is multiplied by it",
			r.SDE.Norm)
	}
	if r.SDE.Last == solver.LastNone && given("last-step-size") {
		return usagef("--last-step-size: there is no last step, --last-step None")
	}
	o.searched = r.Timesteps == "searched"
	if o.searched {
		r.Timesteps = ""
	}
	searches := given("search-steps")
	switch {
	case !searches && !o.searched:
		return nil
	case searches && o.searched:
		return usagef("--timesteps searched: --search-steps finds them, from the grid of a long run")
	case searches && o.searchSteps < 2:
		return usagef("--search-steps %d: want at least 2", o.searchSteps)
	}
	if o.negativePrompt != "" { // which changes guidance, and that a schedule does not tell
		return usagef("--negative-prompt: schedules are searched and drawn with the empty one: want none with " +
			"--search-steps and --timesteps searched")
	}
	for _, flag := range []string{"out", "save-latents"} {
		if searches && given(flag) {
			return usagef("--%s: --search-steps draws no pictures", flag)
		}
	}
	if r.Solver == "" {
		r.Solver = searchedSolver
	}
	return nil
}

// search finds a schedule and writes it beside the checkpoint.
func (o *sampleOptions) search(e *env, p *sampling.Pipeline, r sampling.Request) error {
	if err := checkFile("ckpt", p.ScheduleFile()); err != nil {
		return err
	}
	var bar *progress.Bar
	r.Progress = func(done, total int) {
		if bar == nil {
			bar = e.progress("search", "calls", int64(total))
		}
		bar.Set(int64(done))
	}
	found, err := p.Search(e.ctx, r, o.searchSteps)
	if err != nil {
		return ofSchedule(p, err)
	}
	bar.Finish()
	var times []string
	for _, t := range found.Times {
		times = append(times, fmt.Sprintf("%.5g", t))
	}
	e.item("found", fmt.Sprintf("%s: times %s", found, strings.Join(times, ", ")))
	e.item("", fmt.Sprintf("on other noise %.3g from the long run, as many steps on %s %.3g", found.Error, found.Grid,
		found.GridError))
	if err := p.Keep(e.ctx, found); err != nil {
		return ofSchedule(p, err)
	}
	e.printf("written to %s; --timesteps searched draws with it", p.ScheduleFile())
	return e.result(map[string]any{"schedule": found, "file": p.ScheduleFile()})
}

// ofSchedule says of what an error of schedules is: of a flag, or of a file.
func ofSchedule(p *sampling.Pipeline, err error) error {
	file := (*sampling.FileError)(nil)
	switch {
	case !errors.As(err, &file):
		return ofFlag(err)
	case file.Path == p.ScheduleFile():
		return withHint(err, "remove or mend the file; --search-steps N finds the times that it held again")
	}
	return err
}

// describeSDE says what of an SDE is not as in its original.
func describeSDE(r sampling.Request) string {
	var parts []string
	if r.SDE.Form != "" {
		parts = append(parts, "form "+string(r.SDE.Form))
	}
	if r.SDE.Norm != 0 {
		parts = append(parts, fmt.Sprintf("norm %g", r.SDE.Norm))
	}
	if r.SDE.Last != "" {
		parts = append(parts, "last step "+string(r.SDE.Last))
	}
	if r.SDE.LastSize != 0 {
		parts = append(parts, fmt.Sprintf("last step of %g", r.SDE.LastSize))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// describeShift says how the times of a flow are shifted. Times that are listed are the network's own.
func describeShift(r sampling.Request) string {
	if r.Process == nil || r.Process.Shift == 0 || r.Process.Shift == 1 || !r.Process.IsFlow() ||
		strings.Contains(r.Timesteps, ",") || r.Timesteps == "" {
		return ""
	}
	return fmt.Sprintf(" shifted by %g", r.Process.Shift)
}

// describeEnds says which way the time of an interval runs, where families differ in it.
func describeEnds(r sampling.Request) string {
	switch {
	case r.Process == nil || !r.Process.IsFlow():
		return ""
	case r.Process.NoiseAtOne:
		return ", noise at 1"
	}
	return ", data at 1"
}
