package sampling

import (
	"fmt"
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
		if r.Guided = dit.GuideThree; p.NoiseAtOne {
			r.Guided = dit.GuideAll
		}
	}
	if r.Solver == dopri5 {
		return
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
	if n, err := strconv.Atoi(r.Steps); r.Solver != dopri5 && (err != nil || n < 1) {
		_, err := gaussian.New(r.Steps)
		return err
	}
	return nil
}

// validateNames returns an error for what is wrong with any solver.
func (r *Request) validateNames() error {
	lo, hi := r.GuidanceInterval[0], r.GuidanceInterval[1]
	switch {
	case r.Solver == dopri5 && r.Steps != "":
		return fmt.Errorf("num-sampling-steps %s: dopri5 chooses its steps itself", r.Steps)
	case r.Solver == dopri5 && r.Timesteps != "":
		return fmt.Errorf("timesteps %s: dopri5 chooses its steps itself", r.Timesteps)
	case r.Solver != dopri5 && !slices.Contains(timesteps, r.Timesteps):
		return fmt.Errorf("timesteps %q: want %s", r.Timesteps, strings.Join(timesteps, ", "))
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

// plan says how the request is drawn. Its fields have their defaults.
func (r *Request) plan() (*plan, error) {
	p := r.process()
	if known := Solvers(p); !slices.Contains(known, r.Solver) {
		return nil, fmt.Errorf("solver %q: the model predicts %s: want %s", r.Solver, p, strings.Join(known, ", "))
	}
	if err := r.validateNames(); err != nil {
		return nil, err
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
	c := solver.Config{Name: r.Solver, Prediction: prediction(p), Spacing: schedule.Spacing(r.Timesteps)}
	switch {
	case p.IsFlow() && slices.Contains([]string{respaced, string(schedule.Leading), string(schedule.Trailing)},
		r.Timesteps):
		return nil, fmt.Errorf("timesteps %s: that is for DiT's %d steps, a flow has none: want %s, %s, %s",
			r.Timesteps, gaussian.TrainSteps, schedule.Linspace, schedule.Karras, schedule.Lambda)
	case r.Timesteps != respaced && r.Solver == ddpm:
		return nil, fmt.Errorf("timesteps %s: ddpm takes none but %s", r.Timesteps, respaced)
	case r.Timesteps == respaced:
		own, err := gaussian.New(r.Steps)
		if err != nil {
			return nil, err
		}
		if r.Solver == ddpm || r.Solver == ddim {
			v := &plan{respaced: own, ddim: r.Solver == ddim}
			for _, step := range own.TimestepMap {
				v.starts = append(v.starts, float64(step))
			}
			slices.Reverse(v.starts)
			return v, nil
		}
		c.Grid = own.Grid()
	case r.Solver != dopri5:
		n, err := strconv.Atoi(r.Steps)
		least, most := 1, mostSteps
		if strings.HasPrefix(r.Solver, "sde") {
			least = 2 // with the last step of the SDE
		}
		if !p.IsFlow() {
			most = lastStep
		}
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("num-sampling-steps %q: want a number of steps, %d to %d for %s",
				r.Steps, least, most, r.Solver)
		}
		c.Steps = n
	}
	if p.IsFlow() {
		c.Path, c.Shift = &schedule.Path{Kind: schedule.Kind(p.Path), NoiseAtOne: p.NoiseAtOne}, p.Shift
		// Torchdiffeq measures the error of all pictures together.
		c.Dopri5.WholeBatch = r.RNG == rngTorch
		if p.NoiseAtOne { // as in REPA
			c.SDE.Form, c.EulerLast = solver.FormLinear, r.Solver == "heun"
		}
	}
	other, err := c.Plan()
	if err != nil {
		return nil, err
	}
	return &plan{other: other, starts: other.Starts()}, nil
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

// numSteps is what Progress counts: dopri5, which does not know its steps, makes one of a batch.
func (v *plan) numSteps() int { return max(len(v.starts), 1) }

// draws says whether noise is drawn for step k. The originals draw none in some steps that need none.
func (v *plan) draws(k int) bool { return v.respaced != nil || v.other.Draws(k) }

// inside says whether a step that begins at time t is guided.
func (r *Request) inside(t float64) bool {
	return r.GuidanceInterval == [2]float64{} || r.GuidanceInterval[0] <= t && t <= r.GuidanceInterval[1]
}
