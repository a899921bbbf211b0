package solver

import (
	"fmt"
	"math"
	"slices"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// A Search looks for the few of a grid's levels by which a solver comes nearest to where all of them lead.
//
// It is the dynamic programming of Pei et al. 2025 (Optimal Stepsize for Diffusion Sampling) over trajectories of the
// solver's own long run: of all ways to a level in k steps it keeps the one that arrives nearest to the long run's
// samples there, and goes on from where that one truly is, so errors of earlier steps count. The network is never
// trained; it is asked once for each level and number of steps.
type Search struct {
	config Config // with the long grid
	n      int    // steps to find
	whole  bool   // times
}

// NewSearch prepares a search for n of the steps of c, which is the long run. Its levels are those that [Config.Times]
// can name, so on DiT's betas those of whole steps. The solver has to make each step of one call and without noise:
// what it adds would differ from run to run.
func NewSearch(c Config, n int) (*Search, error) {
	p, err := c.Plan()
	if err == nil && c.Grid == nil && p.dopri5 == nil {
		if c, err = c.named(); err == nil {
			p, err = c.Plan()
		}
	}
	switch {
	case err != nil:
		return nil, err
	case p.dopri5 != nil:
		return nil, fmt.Errorf("solver dopri5: it chooses its steps itself")
	case c.Reverse:
		return nil, fmt.Errorf("solver %s: a schedule is searched from noise to data", c.Name)
	case slices.ContainsFunc(p.calls, func(c call) bool { return c.draws }):
		return nil, fmt.Errorf("solver %s: it adds noise, so no two runs of it can be compared: want one without, "+
			"such as dpm++2m", c.Name)
	case len(c.Grid) != len(p.calls)+1:
		return nil, fmt.Errorf("solver %s: it asks the network more than once a step, which a search would do for "+
			"each pair of levels: want one with one call a step, such as dpm++2m", c.Name)
	case n < 2 || n >= len(p.calls):
		return nil, fmt.Errorf("%d steps of %d: want 2 to %d", n, len(p.calls), len(p.calls)-1)
	}
	return &Search{c, n, c.Path == nil}, nil
}

// named gives a configuration the grid of the times of its own grid.
func (c Config) named() (Config, error) {
	k, err := c.check()
	if err != nil {
		return c, err
	}
	g, err := c.grid(k)
	if err != nil {
		return c, err
	}
	c.Times = nil
	for _, l := range g[:len(g)-1] {
		c.Times = append(c.Times, l.T)
	}
	c.Times = slices.Compact(c.Times)
	c.Shift = 1
	c.Grid, err = c.grid(k)
	c.Times, c.Steps = nil, 0
	return c, err
}

// Times are those of levels that [Search.Run] found, for [Config.Times].
func (v *Search) Times(levels []int) (times []float64) {
	for _, i := range levels[:len(levels)-1] {
		times = append(times, v.config.Grid[i].T)
	}
	return times
}

// Plan is the run by levels that [Search.Run] found, nil for all of them.
func (v *Search) Plan(levels []int) (*Plan, error) {
	if levels == nil {
		return v.config.Plan()
	}
	return v.planOf(levels)
}

// Long is the number of steps of the long run.
func (v *Search) Long() int { return len(v.config.Grid) - 1 }

// Calls is how often [Search.Run] asks the network.
func (v *Search) Calls() int { return v.Long() + 1 + (v.n-1)*(v.Long()-v.n+1) }

// A student is a sample of fewer steps at a level of the long grid.
type student struct {
	levels []int // that it came by, the last one being where it is
	state  diffusion.State
}

// Run returns the levels of the grid, by their numbers, that a run of as many steps should go through: n+1, from the
// first to the last. The error of the samples there, the root of its mean square over all numbers, is rms. model
// returns the network for a step that begins at time t. after is called when so many calls are made; its error ends the
// search.
func (v *Search) Run(s *torch.Scope, model func(t float64) diffusion.Denoiser, noise *torch.Tensor,
	after func(calls int) error) (levels []int, rms float64, err error) {
	s = s.NoGrad()
	calls := 0
	ask := func(s *torch.Scope, x *torch.Tensor, t float64) (*torch.Tensor, error) {
		told := s.Full(t, torch.Float32, x.Dim(0))
		if v.whole {
			told = s.To(told, torch.Int64)
		}
		out := model(t)(s, s.To(x, torch.Float32), told)
		calls++
		return out, after(calls)
	}
	teacher, err := v.teach(s, ask, noise)
	if err != nil {
		return nil, 0, err
	}
	students := map[int]student{0: {levels: []int{0}}}
	for k := range v.n {
		if students, rms, err = v.step(s, k, students, teacher, ask, noise); err != nil {
			return nil, 0, err
		}
	}
	return students[v.Long()].levels, rms, nil
}

type question func(s *torch.Scope, x *torch.Tensor, t float64) (*torch.Tensor, error)

// teach makes the long run and returns the samples at each level.
func (v *Search) teach(s *torch.Scope, ask question, noise *torch.Tensor) (at []*torch.Tensor, err error) {
	plan, err := v.config.Plan()
	if err != nil {
		return nil, err
	}
	long := newLinear(s, plan.calls, v.whole)
	state := long.Start(s, noise)
	at = append(at, noise)
	for k := range long.Steps() {
		var failed error
		before := state
		state = s.SubAll(func(s *torch.Scope) []*torch.Tensor {
			answer := func(s *torch.Scope, x, _ *torch.Tensor) (out *torch.Tensor) {
				out, failed = ask(s, x, plan.calls[k].t)
				return out
			}
			return long.Step(s, answer, state, nil, index(s, noise.Dim(0), k))
		})
		if failed != nil {
			return nil, failed
		}
		s.Release(before[1:]...)
		at = append(at, state.X())
	}
	return at, nil
}

// index is Int64 [n], k in each. The device cannot know that it is one of a table's.
func index(s *torch.Scope, n, k int) *torch.Tensor { return s.Full(float64(k), torch.Int64, n) }

// step makes step k of all students and keeps the nearest at each level.
func (v *Search) step(s *torch.Scope, k int, students map[int]student, teacher []*torch.Tensor, ask question,
	noise *torch.Tensor) (next map[int]student, rms float64, err error) {
	last := k == v.n-1
	to := func(i int) (levels []int) {
		if last {
			return []int{v.Long()}
		}
		for j := i + 1; j <= v.Long()-(v.n-1-k); j++ { // so that the steps that follow have levels left
			levels = append(levels, j)
		}
		return levels
	}
	type choice struct {
		from  int
		error float64
	}
	best := map[int]choice{}
	var chosen []int
	states := s.SubAll(func(s *torch.Scope) (kept []*torch.Tensor) {
		outputs := map[int]*torch.Tensor{}
		for i := range v.Long() {
			st, ok := students[i]
			if !ok {
				continue
			}
			s.Sub(func(s *torch.Scope) *torch.Tensor {
				x := noise
				if k > 0 {
					x = st.state.X()
				}
				var plan *Plan
				if plan, err = v.planOf(append(slices.Clone(st.levels), to(i)[0])); err == nil {
					outputs[i], err = ask(s, x, plan.calls[k].t)
				}
				return outputs[i]
			})
			if err != nil {
				return nil
			}
			s.Sub(func(s *torch.Scope) *torch.Tensor {
				levels := to(i)
				var state diffusion.State
				if state, err = v.jump(s, k, st, levels, outputs[i], noise); err != nil {
					return nil
				}
				for at, e := range deviations(s, state.X(), teacher, levels) {
					if b, ok := best[levels[at]]; !ok || e < b.error || math.IsNaN(b.error) {
						best[levels[at]] = choice{i, e}
					}
				}
				return nil
			})
			if err != nil {
				return nil
			}
		}
		next = map[int]student{}
		for i := range v.Long() {
			levels := slices.DeleteFunc(to(i), func(j int) bool { b, ok := best[j]; return !ok || b.from != i })
			if len(levels) == 0 {
				continue
			}
			parts := s.SubAll(func(s *torch.Scope) []*torch.Tensor {
				var state diffusion.State
				if state, err = v.jump(s, k, students[i], levels, outputs[i], noise); err != nil {
					return nil
				}
				var parts []*torch.Tensor
				for at := range levels {
					for _, t := range state {
						parts = append(parts, s.Clone(s.Narrow(t, 0, at*noise.Dim(0), noise.Dim(0))))
					}
				}
				return parts
			})
			if err != nil {
				return nil
			}
			for _, j := range levels {
				next[j] = student{levels: append(slices.Clone(students[i].levels), j)}
				chosen = append(chosen, j)
			}
			kept = append(kept, parts...)
		}
		return kept
	})
	if err != nil {
		return nil, 0, err
	}
	each := len(states) / max(len(chosen), 1)
	for at, j := range chosen {
		next[j] = student{next[j].levels, states[at*each : (at+1)*each]}
	}
	for _, st := range students {
		if st.state != nil {
			s.Release(st.state...)
		}
	}
	rms = math.Sqrt(best[v.Long()].error)
	if last && (math.IsNaN(rms) || len(next) == 0) {
		return nil, 0, fmt.Errorf("solver %s: the samples are not finite numbers", v.config.Name)
	}
	return next, rms, nil
}

// deviations are the mean squares of the distances of samples x, groups of the teacher's number, from the teacher's at
// these levels.
func deviations(s *torch.Scope, x *torch.Tensor, teacher []*torch.Tensor, levels []int) (squares []float64) {
	var targets []*torch.Tensor
	for _, j := range levels {
		targets = append(targets, teacher[j])
	}
	d := s.To(s.Subtract(x, s.Cat(targets, 0)), torch.Float64)
	mean := s.MeanDims(s.Reshape(s.Square(d), len(levels), -1), false, 1)
	return torch.Data[float64](mean)
}

// jump makes step k of a student to each of these levels: states of len(levels) groups. output is what the network says
// where the student is.
func (v *Search) jump(s *torch.Scope, k int, st student, levels []int, output, noise *torch.Tensor) (diffusion.State,
	error) {
	var calls []call
	for _, j := range levels {
		plan, err := v.planOf(append(slices.Clone(st.levels), j))
		if err != nil {
			return nil, err
		}
		calls = append(calls, plan.calls[k])
		if j == levels[len(levels)-1] {
			calls = append(calls, plan.calls...) // so that each step has the rows of all, and a state of one form
		}
	}
	linear := newLinear(s, calls, v.whole)
	state := st.state
	if k == 0 {
		state = linear.Start(s, noise)
	}
	m := noise.Dim(0)
	group := func(t *torch.Tensor) *torch.Tensor { return s.Cat(slices.Repeat([]*torch.Tensor{t}, len(levels)), 0) }
	var groups diffusion.State
	for _, t := range state {
		groups = append(groups, group(t))
	}
	var columns []int64
	for at := range levels {
		columns = append(columns, slices.Repeat([]int64{int64(at)}, m)...)
	}
	answer := func(s *torch.Scope, _, _ *torch.Tensor) *torch.Tensor { return group(output) }
	return linear.Step(s, answer, groups, nil, torch.From(s, columns, len(columns))), nil
}

// planOf is a run of n steps that begins with these levels. What follows the last of them does not matter to the steps
// before it.
func (v *Search) planOf(levels []int) (*Plan, error) {
	c := v.config
	c.Grid = schedule.Grid{}
	for _, i := range levels {
		c.Grid = append(c.Grid, v.config.Grid[i])
	}
	for left := v.n + 1 - len(levels); left > 0; left-- {
		c.Grid = append(c.Grid, v.config.Grid[v.Long()+1-left])
	}
	return c.Plan()
}
