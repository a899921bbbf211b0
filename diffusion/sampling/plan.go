package sampling

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

const (
	ddpm     = "ddpm"
	ddim     = "ddim"
	sdeEuler = "sde-euler"
	dopri5   = "dopri5" // which chooses its steps as it goes

	respaced = "respaced" // DiT's own grid, for Request.Timesteps; the others are of package schedule

	lastStep = gaussian.TrainSteps - 1 // the greatest time of DiT's process
)

// timesteps are the names that Request.Timesteps may have.
var timesteps = []string{respaced, string(schedule.Linspace), string(schedule.Leading), string(schedule.Trailing),
	string(schedule.Karras), string(schedule.Lambda)}

// Solvers lists the solvers that models of a process draw with.
func Solvers(p dit.Process) []string {
	if p.IsFlow() {
		return toData(true)
	}
	return append([]string{ddpm}, toData(false)...)
}

// toData lists the solvers of package solver that can end at data, where all grids of a request end.
func toData(flow bool) []string {
	return slices.DeleteFunc(solver.Names(flow), func(name string) bool { return strings.HasSuffix(name, "-bh1") })
}

// process is that of the model, as far as it is known.
func (r *Request) process() dit.Process {
	if r.Process == nil {
		return dit.Process{}
	}
	return *r.Process
}

// setSolver gives the fields about the solver their defaults, which are those of the model's family.
func (r *Request) setSolver() {
	p := r.process()
	if r.Solver == "" {
		if r.Solver = ddpm; p.IsFlow() {
			r.Solver = sdeEuler
		}
	}
	if r.Guided == 0 {
		if r.Guided = dit.GuideThree; p.NoiseAtOne || r.Guide != nil {
			r.Guided = dit.GuideAll
		}
	}
	if r.Solver == dopri5 {
		return
	}
	if times, err := r.times(); r.Steps == "" && err == nil && times != nil {
		r.Steps = strconv.Itoa(len(times))
	}
	if r.Steps == "" {
		r.Steps = "250"
	}
	if r.Timesteps == "" {
		if r.Timesteps = string(schedule.Linspace); !p.IsFlow() && (r.Solver == ddpm || r.Solver == ddim) {
			r.Timesteps = respaced
		}
	}
}

// times reads the times that Timesteps lists, nil where it names a grid.
func (r *Request) times() (times []float64, err error) {
	if !strings.HasPrefix(strings.TrimLeft(r.Timesteps, "0123456789.e-+ "), ",") {
		return nil, nil
	}
	for word := range strings.SplitSeq(r.Timesteps, ",") {
		t, err := strconv.ParseFloat(strings.TrimSpace(word), 64)
		if err != nil || math.IsNaN(t) || math.IsInf(t, 0) {
			return nil, fmt.Errorf("timesteps %s: %q is not a time: want the name of a grid, or times as in "+
				"999,850,400", r.Timesteps, strings.TrimSpace(word))
		}
		times = append(times, t)
	}
	if _, err := strconv.Atoi(r.Steps); err == nil && r.Steps != strconv.Itoa(len(times)) {
		return nil, fmt.Errorf("num-sampling-steps %s: timesteps lists the times of %d", r.Steps, len(times))
	}
	return times, nil
}

// validateSolver returns an error for the first value about the solver that is wrong: as far as the process of the
// model is known.
func (r *Request) validateSolver() error {
	if r.Process != nil {
		_, err := r.plan()
		return err
	}
	if known := append([]string{ddpm}, toData(true)...); !slices.Contains(known, r.Solver) {
		return fmt.Errorf("solver %q: want %s", r.Solver, strings.Join(known, ", "))
	}
	if err := r.validateNames(); err != nil {
		return err
	}
	if times, err := r.times(); err != nil || times != nil {
		return err
	}
	if n, err := strconv.Atoi(r.Steps); r.Solver != dopri5 && (err != nil || n < 1) {
		_, err := gaussian.New(r.Steps)
		return err
	}
	return nil
}

// validateNames returns an error for what is wrong with any solver.
func (r *Request) validateNames() error {
	lo, hi := r.GuidanceInterval[0], r.GuidanceInterval[1]
	times, err := r.times()
	if err != nil {
		return err
	}
	switch {
	case r.Solver == dopri5 && r.Steps != "":
		return fmt.Errorf("num-sampling-steps %s: dopri5 chooses its steps itself", r.Steps)
	case r.Solver == dopri5 && r.Timesteps != "":
		return fmt.Errorf("timesteps %s: dopri5 chooses its steps itself", r.Timesteps)
	case r.Solver != dopri5 && times == nil && !slices.Contains(timesteps, r.Timesteps):
		return fmt.Errorf("timesteps %q: want %s, or times as in 999,850,400", r.Timesteps,
			strings.Join(timesteps, ", "))
	case r.GuidanceInterval == [2]float64{}:
		return nil
	case !(lo < hi): // NaN too
		return fmt.Errorf("guidance-interval %g,%g: want two times, the lower one first", lo, hi)
	case r.Process == nil && !(lo >= 0 && hi <= lastStep):
		return fmt.Errorf("guidance-interval %g,%g: want times of the model: 0 to %d of DiT, 0 to 1 of flows",
			lo, hi, lastStep)
	case r.Process != nil && r.Process.IsFlow() && !(lo >= 0 && hi <= 1):
		return fmt.Errorf("guidance-interval %g,%g: the model's time runs from 0 to 1", lo, hi)
	// Up to 1 is an interval of a flow: here it would guide the last step alone.
	case r.Process != nil && !r.Process.IsFlow() && !(lo >= 0 && hi > 1 && hi <= lastStep):
		return fmt.Errorf("guidance-interval %g,%g: the model's time runs from 0 to %d", lo, hi, lastStep)
	case r.Solver == dopri5:
		return fmt.Errorf("guidance-interval %g,%g: dopri5 chooses its steps by how smooth the velocity is, and "+
			"guidance that begins at once is not: want a solver with a grid", lo, hi)
	case !r.guided():
		return fmt.Errorf("guidance-interval %g,%g: has no effect without guidance, cfg-scale 1", lo, hi)
	}
	return nil
}

// A plan is the solver of a request without its tables.
type plan struct {
	respaced *schedule.Schedule // DiT's process in as many steps, for its own solvers; nil for those of package solver
	ddim     bool               // of these, else ddpm
	other    *solver.Plan
	starts   []float64 // the time that counts for the guidance of each step; none for dopri5
}

// wholeSteps is how many steps of the method are done after so many of the plan, which are calls of the network.
// Dopri5, which does not know its steps, makes one of a batch.
func (v *plan) wholeSteps(calls int) (n int) {
	for k := range min(calls, len(v.starts)) {
		if k+1 == len(v.starts) || v.starts[k+1] != v.starts[k] {
			n++
		}
	}
	return max(n, calls-len(v.starts))
}

// plan says how the request is drawn. Its fields have their defaults.
func (r *Request) plan() (*plan, error) {
	p := r.process()
	if known := Solvers(p); !slices.Contains(known, r.Solver) {
		return nil, fmt.Errorf("solver %q: the model predicts %s: want %s", r.Solver, p, strings.Join(known, ", "))
	}
	if err := r.validateNames(); err != nil {
		return nil, err
	}
	if r.SDE != (solver.SDE{}) && !strings.HasPrefix(r.Solver, "sde") {
		return nil, fmt.Errorf("diffusion-form and last-step are for SDEs: solver %s follows none, want sde-euler or "+
			"sde-heun", r.Solver)
	}
	if times, _ := r.times(); times != nil && r.SDE.LastSize != 0 {
		return nil, fmt.Errorf("last-step-size %g: the last step goes to data from the last of timesteps",
			r.SDE.LastSize)
	}
	v, err := r.planOf(p)
	if err != nil {
		return nil, err
	}
	if r.GuidanceInterval != [2]float64{} && !slices.ContainsFunc(v.starts, r.inside) {
		return nil, fmt.Errorf("guidance-interval %g,%g: no step begins there", r.GuidanceInterval[0],
			r.GuidanceInterval[1])
	}
	return v, nil
}

func (r *Request) planOf(p dit.Process) (*plan, error) {
	if r.Timesteps == respaced && (r.Solver == ddpm || r.Solver == ddim) && !p.IsFlow() {
		own, err := gaussian.New(r.Steps)
		if err != nil {
			return nil, err
		}
		v := &plan{respaced: own, ddim: r.Solver == ddim}
		for _, step := range own.TimestepMap {
			v.starts = append(v.starts, float64(step))
		}
		slices.Reverse(v.starts)
		return v, nil
	}
	c, err := r.config(p)
	if err != nil {
		return nil, err
	}
	other, err := c.Plan()
	if err != nil {
		return nil, err
	}
	return &plan{other: other, starts: other.Starts()}, nil
}

// config is that of the request's solver of package solver.
func (r *Request) config(p dit.Process) (c solver.Config, err error) {
	c = solver.Config{Name: r.Solver, Prediction: prediction(p), Spacing: schedule.Spacing(r.Timesteps), SDE: r.SDE}
	if c.Times, err = r.times(); err != nil {
		return c, err
	}
	switch {
	case p.IsFlow() && slices.Contains([]string{respaced, string(schedule.Leading), string(schedule.Trailing)},
		r.Timesteps):
		return c, fmt.Errorf("timesteps %s: that is for DiT's %d steps, a flow has none: want %s, %s, %s",
			r.Timesteps, gaussian.TrainSteps, schedule.Linspace, schedule.Karras, schedule.Lambda)
	case r.Timesteps != respaced && r.Solver == ddpm:
		return c, fmt.Errorf("timesteps %s: ddpm takes none but %s", r.Timesteps, respaced)
	case c.Times != nil:
		c.Spacing = ""
	case r.Timesteps == respaced:
		own, err := gaussian.New(r.Steps)
		if err != nil {
			return c, err
		}
		c.Grid = own.Grid()
	case r.Solver != dopri5:
		if c.Steps, err = r.numIntervals(p); err != nil {
			return c, err
		}
	}
	if p.IsFlow() {
		c.Path, c.Shift = &schedule.Path{Kind: schedule.Kind(p.Path), NoiseAtOne: p.NoiseAtOne}, p.Shift
		// Torchdiffeq measures the error of all pictures together.
		c.Dopri5.WholeBatch = r.RNG == rngTorch
		if p.NoiseAtOne { // as in REPA
			c.EulerLast = r.Solver == "heun"
			c.SDE.Form = cmp.Or(c.SDE.Form, solver.FormLinear)
		}
	}
	return c, nil
}

// numIntervals reads Steps where it is a number.
func (r *Request) numIntervals(p dit.Process) (int, error) {
	n, err := strconv.Atoi(r.Steps)
	least, most := 1, mostSteps
	if strings.HasPrefix(r.Solver, "sde") {
		least = 2 // with the last step of the SDE
	}
	if !p.IsFlow() {
		most = lastStep
	}
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("num-sampling-steps %q: want a number of steps, %d to %d for %s",
			r.Steps, least, most, r.Solver)
	}
	return n, nil
}

// mostSteps bounds the tables of a solver.
const mostSteps = 10000

// prediction is what the network's output means.
func prediction(p dit.Process) schedule.Prediction {
	if p.Objective == "" || p.Objective == "eps" {
		return schedule.Noise
	}
	return schedule.Prediction(p.Objective)
}

// solver returns the solver with its tables in s.
func (v *plan) solver(s *torch.Scope) diffusion.Solver {
	switch {
	case v.respaced == nil:
		return v.other.Solver(s)
	case v.ddim:
		return gaussian.NewDDIM(s, v.respaced)
	}
	return gaussian.NewDDPM(s, v.respaced)
}

// numSteps is what Progress counts in each batch.
func (v *plan) numSteps() int { return v.wholeSteps(max(len(v.starts), 1)) }

// draws says whether noise is drawn for step k. The originals draw none in some steps that need none.
func (v *plan) draws(k int) bool { return v.respaced != nil || v.other.Draws(k) }

// inside says whether a step that begins at time t is guided.
func (r *Request) inside(t float64) bool {
	return r.GuidanceInterval == [2]float64{} || r.GuidanceInterval[0] <= t && t <= r.GuidanceInterval[1]
}
