// Package solver draws samples with few calls of the network, of models of either family: those of DiT, which know 1000
// steps, and those of package flow, whose time is continuous.
//
// A solver goes through a grid of noise levels (package schedule). Its coefficients follow from the grid alone, so they
// are computed once, in float64, and looked up on the device by the number of the step, which is one call of the
// network. Only [Dopri5] chooses its steps as it goes.
//
// Shape letters: N batch, C channels, K steps.
package solver

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// Config says how samples are drawn. The zero value of a field is its default.
type Config struct {
	Name string // one of [Names]

	// Path is that of a flow; nil stands for DiT's betas.
	Path       *schedule.Path
	Prediction schedule.Prediction // velocity for flows, noise for DiT's betas

	// Steps is the number of intervals of the grid, for an SDE with its last step. SiT counts the points of a grid: its
	// num_steps is one more for a probability flow, and the same for an SDE. Dopri5 has no grid.
	Steps   int
	Spacing schedule.Spacing // linspace
	Final   schedule.Final   // where DiT's grids end: zero, of DEIS sigma_min, as in diffusers

	// Start and End are where a flow begins, at noise, and ends, or takes the last step of its SDE: by default where
	// SiT does.
	Start, End float64
	Shift      float64 // of [schedule.Path.Grid] and of the last step of an SDE, for flows; 0 stands for none

	// Times are those at which the steps begin, as the network is told them, in place of Steps, Spacing and Shift; the
	// last one ends where any grid does. The last step of an SDE goes to data from the last of them.
	Times []float64
	// Grid is in place of all that says where the levels lie, such as that of [schedule.Schedule.Grid] for DiT's own
	// respacing.
	Grid schedule.Grid

	Reverse bool // from data to noise, for the solvers of probability flows and for ddim
	// Corrections of each step of ddim's way back, one call of the network each, take it nearer to where DDIM comes
	// from by an order each: with none of them the way back is of the first order, as in DiT.
	Corrections int

	Eta       float64 // of ddim: 0 adds no noise, 1 as much as DDPM
	EulerLast bool    // of heun: the last step is one of Euler, as in REPA
	SDE       SDE
	Dopri5    Tolerance
}

// A kind is what solvers of a name have in common.
type kind int

const (
	onGrid kind = iota // a multistep method in lambda or rho
	ofFlow             // a probability flow
	ofSDE
)

// names in the order in which they are listed.
var names = []struct {
	name string
	kind kind
}{
	{"ddim", onGrid}, {"dpm++1", onGrid}, {"dpm++2m", onGrid}, {"dpm++2m-heun", onGrid}, {"dpm++3m", onGrid},
	{"unipc1", onGrid}, {"unipc2", onGrid}, {"unipc3", onGrid}, {"unipc2-bh1", onGrid}, {"unipc3-bh1", onGrid},
	{"deis1", onGrid}, {"deis2", onGrid}, {"deis3", onGrid},
	{"euler", ofFlow}, {"heun", ofFlow}, {"midpoint", ofFlow}, {"heun3", ofFlow}, {"rk4", ofFlow}, {"dopri5", ofFlow},
	{"sde-euler", ofSDE}, {"sde-heun", ofSDE},
}

// Names returns the solvers of flows, or those of DiT's betas.
func Names(flow bool) []string {
	var out []string
	for _, n := range names {
		if flow || n.kind == onGrid {
			out = append(out, n.name)
		}
	}
	return out
}

// A Plan is a solver without its tables, which needs no device.
type Plan struct {
	calls      []call
	wholeTimes bool
	dopri5     *Dopri5
}

// Plan computes what a solver does in each step.
func (c Config) Plan() (*Plan, error) {
	p, err := c.plan()
	if err != nil {
		return nil, fmt.Errorf("solver %s: %w", c.Name, err)
	}
	return p, nil
}

// New returns a solver with its tables in s: a *[Linear] or a *[Dopri5].
func New(s *torch.Scope, c Config) (diffusion.Solver, error) {
	p, err := c.Plan()
	if err != nil {
		return nil, err
	}
	return p.Solver(s), nil
}

// Solver returns the solver with its tables in s.
func (p *Plan) Solver(s *torch.Scope) diffusion.Solver {
	if p.dopri5 != nil {
		return p.dopri5
	}
	return newLinear(s, p.calls, p.wholeTimes)
}

// Starts and Draws are those of [Linear]; dopri5 has none.
func (p *Plan) Starts() []float64 { return (&Linear{calls: p.calls}).Starts() }

// Draws says whether noise is drawn for step k.
func (p *Plan) Draws(k int) bool { return p.calls[k].draws }

func (c Config) plan() (*Plan, error) {
	k, err := c.check()
	if err != nil {
		return nil, err
	}
	if c.Name == "dopri5" {
		start, end, err := c.interval(k)
		if err != nil {
			return nil, err
		}
		if c.Reverse {
			start, end = end, start
		}
		v, err := newDopri5(*c.Path, c.Prediction, start, end, c.Dopri5)
		return &Plan{dopri5: v}, err
	}
	g, err := c.grid(k)
	if err != nil {
		return nil, err
	}
	if c.Reverse {
		g = g.Reversed()
	}
	calls, err := c.calls(k, g)
	if err != nil {
		return nil, err
	}
	return &Plan{calls: calls, wholeTimes: c.Path == nil}, finiteCalls(calls)
}

// check fills in defaults and refuses what does not go together.
func (c *Config) check() (kind, error) {
	flow := c.Path != nil
	i := slices.IndexFunc(names, func(n struct {
		name string
		kind kind
	}) bool {
		return n.name == c.Name
	})
	switch {
	case i < 0 && c.Name == "ddpm" && flow:
		return 0, fmt.Errorf("it draws from the reverse step of DiT's process, which a flow does not have: want %s",
			strings.Join(Names(true), ", "))
	case i < 0:
		return 0, fmt.Errorf("unknown: want %s", strings.Join(Names(flow), ", "))
	case !flow && names[i].kind != onGrid:
		return 0, fmt.Errorf("it follows the velocity of a flow, which DiT's betas do not have: want %s",
			strings.Join(Names(false), ", "))
	}
	k := names[i].kind
	if c.Prediction == "" {
		c.Prediction = schedule.Noise
		if flow {
			c.Prediction = schedule.Velocity
		}
	}
	if _, err := schedule.ParsePrediction(string(c.Prediction)); err != nil {
		return 0, err
	}
	if !flow && c.Prediction == schedule.Velocity {
		return 0, fmt.Errorf("DiT's betas have no velocity: want a prediction of noise, score or data")
	}
	if flow {
		if _, err := schedule.ParsePath(string(c.Path.Kind), false); err != nil {
			return 0, err
		}
	}
	if c.Spacing == "" {
		c.Spacing = schedule.Linspace
	}
	if c.Shift == 0 || c.Times != nil {
		c.Shift = 1
	}
	if c.Final == "" {
		c.Final = schedule.FinalZero
		if strings.HasPrefix(c.Name, "deis") {
			c.Final = schedule.FinalMin
		}
	}
	if k == ofSDE {
		c.SDE.fill()
	}
	only := func(what, where string, set, may bool) error {
		if set && !may {
			return fmt.Errorf("%s is for %s", what, where)
		}
		return nil
	}
	for _, err := range []error{
		only("a shift", "flows", c.Shift != 1, flow),
		only("an interval of time", "flows", c.Start != 0 || c.End != 0, flow),
		only("eta", "ddim", c.Eta != 0, c.Name == "ddim"),
		only("a last step of Euler", "heun", c.EulerLast, c.Name == "heun"),
		only("the way back to noise", "ddim without eta and probability flows", c.Reverse,
			k == ofFlow || c.Name == "ddim" && c.Eta == 0),
		only("a correction", "ddim's way back to noise", c.Corrections != 0, c.Name == "ddim" && c.Reverse),
		only("a number of steps", "solvers with a grid, which chooses its own",
			c.Steps != 0 || c.Grid != nil || c.Times != nil, c.Name != "dopri5"),
	} {
		if err != nil {
			return 0, err
		}
	}
	if !(c.Eta >= 0 && c.Eta <= 1) {
		return 0, fmt.Errorf("eta %v: want 0 to 1", c.Eta)
	}
	if c.Corrections < 0 {
		return 0, fmt.Errorf("%d corrections: want 0 or more", c.Corrections)
	}
	return k, nil
}

// interval returns where a flow begins and ends.
func (c *Config) interval(k kind) (start, end float64, err error) {
	if c.Start != 0 || c.End != 0 {
		start, end = c.Start, c.End
	} else if k == ofSDE {
		start, end = c.Path.SDEInterval(c.Prediction, c.SDE.LastSize)
	} else {
		start, end = c.Path.SampleInterval(c.Prediction)
	}
	if _, err := c.Path.GridOf([]float64{start, end}, c.Shift); err != nil {
		return 0, 0, err
	}
	return start, end, nil
}

func (c *Config) grid(k kind) (schedule.Grid, error) {
	if c.Grid != nil {
		if len(c.Grid) < 2 {
			return nil, fmt.Errorf("a grid of one level: want at least two")
		}
		return c.Grid, nil
	}
	if c.Times != nil {
		return c.gridOfTimes(k)
	}
	if c.Path == nil {
		spacing := c.Spacing
		if c.Name == "ddim" && spacing == schedule.Leading {
			spacing = schedule.LeadingZero
		}
		return schedule.DiTGrid(spacing, c.Steps, c.Final)
	}
	start, end, err := c.interval(k)
	if err != nil {
		return nil, err
	}
	n := c.Steps
	if k == ofSDE && c.SDE.Last != LastNone {
		if n--; n < 1 {
			return nil, fmt.Errorf("%d steps: want at least 2, as one is the last step of the SDE", c.Steps)
		}
	}
	return c.Path.Grid(c.Spacing, n, start, end, c.Shift)
}

// gridOfTimes is the grid whose steps begin at c.Times.
func (c *Config) gridOfTimes(k kind) (schedule.Grid, error) {
	if c.Path == nil {
		return schedule.DiTGridOf(c.Times, c.Final)
	}
	if k == ofSDE && c.SDE.Last != LastNone {
		if len(c.Times) < 2 {
			return nil, fmt.Errorf("one time: want at least 2, as the last step of the SDE begins at one")
		}
		data := 1.0
		if c.Path.NoiseAtOne {
			data = 0
		}
		c.SDE.LastSize = math.Abs(data - c.Times[len(c.Times)-1])
		return c.Path.GridOf(c.Times, 1)
	}
	_, end, err := c.interval(k)
	if err != nil {
		return nil, err
	}
	return c.Path.GridOf(append(slices.Clone(c.Times), end), 1)
}

func (c *Config) calls(k kind, g schedule.Grid) ([]call, error) {
	switch k {
	case ofFlow:
		return rungeKutta(*c.Path, g, c.Prediction, tableaus[c.Name], c.EulerLast), nil
	case ofSDE:
		return sde(*c.Path, g, c.Prediction, c.Name == "sde-heun", c.Shift, c.SDE)
	}
	if c.Name == "ddim" && c.Reverse {
		return ddimBack(g, c.Prediction, c.Corrections), nil
	}
	if c.Name == "ddim" {
		return ddim(g, c.Prediction, c.Eta), nil
	}
	g = finite(c.Path, g)
	method, bh1 := strings.CutSuffix(c.Name, "-bh1")
	switch method {
	case "dpm++1":
		return dpm(g, c.Prediction, 1, false), nil
	case "dpm++2m":
		return dpm(g, c.Prediction, 2, false), nil
	case "dpm++2m-heun":
		return dpm(g, c.Prediction, 2, true), nil
	case "dpm++3m":
		return dpm(g, c.Prediction, 3, false), nil
	}
	order := int(method[len(method)-1] - '0')
	if strings.HasPrefix(method, "unipc") {
		return uniPC(g, c.Prediction, order, bh1)
	}
	return deis(g, c.Prediction, order), nil
}

// fill sets the defaults, which are SiT's.
func (o *SDE) fill() {
	if o.Form == "" {
		o.Form = FormSigma
	}
	if o.Norm == 0 {
		o.Norm = 1
	}
	if o.Last == "" {
		o.Last = LastMean
	}
	switch {
	case o.Last == LastNone:
		o.LastSize = 0
	case o.LastSize == 0:
		o.LastSize = 0.04
	}
}
