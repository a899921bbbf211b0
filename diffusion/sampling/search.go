package sampling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
)

// A Schedule is the times of the steps by which a solver with few of them comes nearest to its long run, see
// [solver.Search]. It belongs to weights, a solver and guidance, which for models of
// text leads away from the empty caption.
type Schedule struct {
	Weights          string      `json:"weights"` // SHA-256 of the file
	Solver           string      `json:"solver"`
	CFGScale         float64     `json:"cfg_scale"`
	CFGChannels      int         `json:"cfg_channels,omitempty"` // as [dit.GuidedChannels]; 0 without guidance
	GuidanceInterval *[2]float64 `json:"guidance_interval,omitempty"`
	GuidanceRescale  float64     `json:"guidance_rescale,omitempty"`
	Guide            string      `json:"guide,omitempty"` // SHA-256 of the file

	Times []float64 `json:"times"` // of the model, at which the steps begin

	// How it was found: the long run, and how far from it the latents of other noise end, by these steps and by as many
	// of the long run's grid. Distances are the root of the mean square.
	LongSteps int     `json:"long_steps"`
	Pictures  int     `json:"pictures"`
	Seed      uint64  `json:"seed"`
	Grid      string  `json:"grid"`
	Error     float64 `json:"error"`
	GridError float64 `json:"grid_error"`
}

// Steps is the number of steps.
func (v Schedule) Steps() int { return len(v.Times) }

// String says which schedule it is, as in "8 steps of dpm++2m with guidance 4".
func (v Schedule) String() string {
	text := fmt.Sprintf("%d steps of %s without guidance", v.Steps(), v.Solver)
	if v.CFGScale != 1 {
		channels := "all"
		if v.CFGChannels > 0 {
			channels = strconv.Itoa(v.CFGChannels)
		}
		text = fmt.Sprintf("%d steps of %s with guidance %g on %s channels", v.Steps(), v.Solver, v.CFGScale, channels)
	}
	if at := v.GuidanceInterval; at != nil {
		text += fmt.Sprintf(" from %g to %g", at[0], at[1])
	}
	if v.GuidanceRescale != 0 {
		text += fmt.Sprintf(", rescaled by %g", v.GuidanceRescale)
	}
	if v.Guide != "" {
		text += fmt.Sprintf(", away from %.12s", v.Guide)
	}
	return text
}

// fits says whether both are for the same runs, of whatever number of steps.
func (v Schedule) fits(w Schedule) bool {
	at, of := v.GuidanceInterval, w.GuidanceInterval
	return v.Weights == w.Weights && v.Solver == w.Solver && v.CFGScale == w.CFGScale &&
		v.CFGChannels == w.CFGChannels && v.GuidanceRescale == w.GuidanceRescale && v.Guide == w.Guide &&
		(at == nil) == (of == nil) && (at == nil || *at == *of)
}

// scheduleOf says what a schedule for the request, which has its defaults, belongs to.
func (p *Pipeline) scheduleOf(r Request) (v Schedule, err error) {
	v = Schedule{Weights: p.weights, Solver: r.Solver, CFGScale: r.CFGScale, GuidanceRescale: r.GuidanceRescale}
	if v.Weights == "" {
		if v.Weights, err = disk.SHA256(p.path); err != nil {
			return v, &FileError{p.path, disk.Bare(err)}
		}
	}
	if r.guided() {
		v.CFGChannels = int(r.Guided)
	}
	if r.GuidanceInterval != [2]float64{} {
		v.GuidanceInterval = &r.GuidanceInterval
	}
	if r.Guide != nil {
		if v.Guide, err = disk.SHA256(p.guidePath); err != nil {
			return v, &FileError{p.guidePath, disk.Bare(err)}
		}
	}
	return v, nil
}

// ScheduleFile is the path of the file beside the checkpoint that keeps its schedules.
func (p *Pipeline) ScheduleFile() string {
	return strings.TrimSuffix(p.path, filepath.Ext(p.path)) + ".schedules.json"
}

// A FileError is that of a file which schedules are kept in or belong to, not of a request.
type FileError struct {
	Path string
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }

func (e *FileError) Unwrap() error { return e.Err }

// schedules reads that file; there are none where it is missing.
func (p *Pipeline) schedules() (all []Schedule, err error) {
	text, err := os.ReadFile(p.ScheduleFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, &FileError{p.ScheduleFile(), disk.Bare(err)}
	}
	return all, nil
}

// Keep writes a schedule into the file beside the checkpoint, in the place of one for the same runs. It waits for
// others that do so at the time.
func (p *Pipeline) Keep(ctx context.Context, v Schedule) error {
	lock, err := disk.WaitLock(ctx, p.ScheduleFile()+".lock")
	if err != nil {
		return err
	}
	defer lock.Remove()
	all, err := p.schedules()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(w Schedule) bool { return w.fits(v) && w.Steps() == v.Steps() })
	text, err := json.MarshalIndent(append(all, v), "", "  ")
	if err != nil {
		return err
	}
	return disk.WriteBytes(p.ScheduleFile(), append(text, '\n'))
}

// Searched returns r with the times of the schedule that was searched for it, by the number of its steps, where that is
// given.
func (p *Pipeline) Searched(r Request) (Request, error) {
	all, err := p.schedules()
	if err != nil {
		return r, err
	}
	given, q := r.Steps, r
	q.Process, q.Guide = &p.info.Process, p.guide
	q.setDefaults()
	want, err := p.scheduleOf(q)
	if err != nil {
		return r, err
	}
	var fit []Schedule
	var there []string
	for _, v := range all {
		there = append(there, v.String())
		if v.fits(want) && (given == "" || given == strconv.Itoa(v.Steps())) {
			fit = append(fit, v)
		}
	}
	wanted := fmt.Sprintf("%s steps of%s", given, strings.SplitAfterN(want.String(), " of", 2)[1])
	switch {
	case len(fit) == 1:
		var times []string
		for _, t := range fit[0].Times {
			times = append(times, strconv.FormatFloat(t, 'g', -1, 64))
		}
		r.Timesteps, r.Steps = strings.Join(times, ","), strconv.Itoa(len(times))
		return r, nil
	case len(fit) > 1:
		return r, fmt.Errorf("timesteps searched: there are %s: num-sampling-steps says which",
			strings.Join(there, "; "))
	case len(all) > 0 && !slices.ContainsFunc(all, func(v Schedule) bool { return v.Weights == want.Weights }):
		return r, fmt.Errorf("timesteps searched: %s is for other weights", p.ScheduleFile())
	case len(all) > 0:
		return r, fmt.Errorf("timesteps searched: none was searched for %s; there are %s", strings.TrimSpace(wanted),
			strings.Join(there, "; "))
	}
	return r, fmt.Errorf("timesteps searched: there is no %s: no schedule was searched for this checkpoint",
		p.ScheduleFile())
}

// mostSearched bounds the pictures of a search, which keeps the latents of all at every step of the long run.
const mostSearched = 64

// Search finds a schedule of so many steps for the request: its Steps and Timesteps are those of the long run, and its
// pictures the trajectories; the model is asked about BatchSize of them at a time. It measures what it found on other
// noise, and returns an error where as many steps of the long run's own grid are nearer. Progress counts steps of all
// pictures.
func (p *Pipeline) Search(ctx context.Context, r Request, steps int) (found Schedule, err error) {
	r.Process, r.Guide = &p.info.Process, p.guide
	d, err := newDrawing(p.model, r)
	if err != nil {
		return found, err
	}
	if _, err := p.schedules(); err != nil { // before the work instead of after it
		return found, err
	}
	n := d.Len()
	switch {
	case d.Solver == ddpm:
		return found, errors.New("solver ddpm: it adds noise, so no two runs of it can be compared: want one " +
			"without, such as dpm++2m")
	case n > mostSearched:
		return found, fmt.Errorf("num-samples %d: a search keeps the steps of all, want at most %d", n,
			mostSearched)
	}
	long, err := d.searchConfig()
	if err != nil {
		return found, err
	}
	search, err := solver.NewSearch(long, steps)
	if err != nil {
		return found, fmt.Errorf("search-steps %d: %w", steps, err)
	}
	even := d.Request
	even.Steps = strconv.Itoa(steps)
	if times, _ := d.times(); times != nil {
		even.Timesteps = ""
		even.setDefaults()
	}
	evenConfig, err := even.searchConfig()
	if err != nil {
		return found, err
	}
	if found, err = p.scheduleOf(d.Request); err != nil {
		return found, err
	}
	found.LongSteps, found.Pictures, found.Seed = search.Long(), n, d.Seed
	found.Grid = even.Timesteps
	longPlan, err := search.Plan(nil)
	if err != nil {
		return found, err
	}
	evenPlan, err := evenConfig.Plan()
	if err != nil {
		return found, err
	}
	calls, total := 0, search.Calls()+len(longPlan.Starts())+len(evenPlan.Starts())+steps
	after := func(int) error {
		calls++
		if d.Progress != nil {
			d.Progress(calls, total)
		}
		return context.Cause(ctx)
	}
	err = torch.Run(p.dev, func(s *torch.Scope) error {
		s = p.precision.Scope(s).NoGrad()
		noise, all, err := d.noiseForSearch(s, d.Seed)
		if err != nil {
			return err
		}
		defer all.close()
		levels, _, err := search.Run(s, all.at, noise, after)
		if err != nil {
			return err
		}
		found.Times = search.Times(levels)
		foundPlan, err := search.Plan(levels)
		if err != nil {
			return err
		}
		other, again, err := d.noiseForSearch(s, d.Seed+1)
		if err != nil {
			return err
		}
		defer again.close()
		var ends []*torch.Tensor
		for _, plan := range []*solver.Plan{longPlan, foundPlan, evenPlan} {
			x, err := again.through(s, plan, other, after)
			if err != nil {
				return err
			}
			ends = append(ends, x)
		}
		distance := func(x *torch.Tensor) float64 {
			return math.Sqrt(s.Mean(s.Square(s.To(s.Subtract(x, ends[0]), torch.Float64))).Item())
		}
		found.Error, found.GridError = distance(ends[1]), distance(ends[2])
		return nil
	})
	if err != nil {
		return found, err
	}
	if !(found.Error <= found.GridError) {
		return found, fmt.Errorf("search-steps %d: on other noise the steps that were found end %.3g from the long "+
			"run, those of the grid %s %.3g: more pictures or a longer run may find better ones", steps, found.Error,
			found.Grid, found.GridError)
	}
	return found, nil
}

// searchConfig is the solver of the request with levels that times can name.
func (r *Request) searchConfig() (solver.Config, error) {
	c, err := r.config(r.process())
	if c.Grid != nil { // DiT's own steps
		for _, l := range c.Grid[:len(c.Grid)-1] {
			c.Times = append(c.Times, l.T)
		}
		c.Grid, c.Spacing = nil, ""
	}
	return c, err
}

// searched are the batches of a search, each with its conditions.
type searched []*series

// noiseForSearch begins all pictures with the noise of a seed.
func (d *drawing) noiseForSearch(s *torch.Scope, seed uint64) (noise *torch.Tensor, all searched, err error) {
	of := *d
	of.Seed = seed
	solver := of.solver(s)
	var parts []*torch.Tensor
	for b := range d.batches() {
		lo, hi := d.bounds(b)
		source, err := newSource(s, &of, hi-lo)
		if err != nil {
			all.close()
			return nil, nil, err
		}
		v := newSeries(s, &of, solver, nil, source, hi-lo)
		v.begin(s, lo)
		all, parts = append(all, v), append(parts, v.samples.X())
	}
	return s.Cat(parts, 0), all, nil
}

func (all searched) close() {
	for _, v := range all {
		v.close()
	}
}

// at is the model in a step that begins at time start, asked about one batch after the other.
func (all searched) at(start float64) diffusion.Denoiser {
	return func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		var parts []*torch.Tensor
		lo := 0
		for _, v := range all {
			v.guide = v.guided() && v.inside(start)
			parts = append(parts, s.Sub(func(s *torch.Scope) *torch.Tensor {
				return v.denoiser()(s, s.Narrow(x, 0, lo, v.n), s.Narrow(t, 0, lo, v.n))
			}))
			lo += v.n
		}
		return s.Cat(parts, 0)
	}
}

// through draws by a plan without noise.
func (all searched) through(s *torch.Scope, plan *solver.Plan, noise *torch.Tensor, after func(int) error,
) (*torch.Tensor, error) {
	x := diffusion.Begin(s, plan.Solver(s), noise)
	for _, t := range plan.Starts() {
		x.Step(s, all.at(t), nil)
		if err := after(0); err != nil {
			return nil, err
		}
	}
	return x.X(), nil
}
