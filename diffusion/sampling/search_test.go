package sampling

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// A schedule that was searched is kept beside the checkpoint and found by what it is for, and no other way.
func TestSearch(t *testing.T) {
	vaeDir, _ := newVAE(t, 4, 1)
	for name, process := range map[string]dit.Process{
		"DiT": {}, "REPA": {Objective: "velocity", Path: "linear", NoiseAtOne: true, Shift: 2},
	} {
		ckpt := newCheckpoint(t, func(i *dit.Info) { i.Process = process })
		p, err := Open(torchtest.Device(t), ckpt, Options{VAE: vaeDir})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		progress := []int{}
		r := Request{Labels: []int{1, 2, 3}, CFGScale: 2, Solver: "dpm++2m", Steps: "16",
			Progress: func(done, total int) { progress = append(progress, done, total) }}
		interval, channels, onChannels := [2]float64{250, 750}, dit.GuideAll, "with guidance 2 on all channels; there"
		if process.IsFlow() {
			interval, channels, onChannels = [2]float64{0.25, 0.75}, dit.GuideThree, "with guidance 2 on 3 channels;"
		}
		found, err := p.Search(context.Background(), r, 4)
		if err != nil {
			t.Fatal(name, err)
		}
		if n := len(progress); progress[n-1] != progress[n-2] {
			t.Errorf("%s: progress ends at %v", name, progress[n-2:])
		}
		if found.Steps() != 4 || found.LongSteps != 16 || found.Pictures != 3 || !(found.Error > 0) ||
			!(found.Error <= found.GridError) || len(found.Weights) != 64 || found.Grid != "linspace" {
			t.Errorf("%s: found %+v", name, found)
		}
		// What it says of the error is that of pictures drawn by its times, with other noise.
		torchtest.Run(t, func(s *torch.Scope) error {
			long := r
			long.Process, long.Progress, long.Seed = &process, nil, r.Seed+1
			few := long
			var times []string
			for _, t := range found.Times {
				times = append(times, strconv.FormatFloat(t, 'g', -1, 64))
			}
			few.Timesteps, few.Steps = strings.Join(times, ","), ""
			grid := long
			grid.Steps = "4"
			of := func(r Request) *torch.Tensor { return s.To(latentsOf(t, s, p.model, r), torch.Float64) }
			for what, c := range map[string]struct {
				said float64
				of   Request
			}{"the schedule": {found.Error, few}, "the grid": {found.GridError, grid}} {
				want := math.Sqrt(s.Mean(s.Square(s.Subtract(of(c.of), of(long)))).Item())
				if !(math.Abs(c.said-want) <= 1e-3*want) {
					t.Errorf("%s: %s ends %v from the long run, the search says %v", name, what, want, c.said)
				}
			}
			return nil
		})
		draw := Request{Labels: []int{3, 4}, CFGScale: 2, Solver: "dpm++2m", Steps: "4"}
		if _, err := p.Searched(draw); err == nil || !strings.Contains(err.Error(), "no schedule was searched for") {
			t.Errorf("%s: without a file: %v", name, err)
		}
		for range 2 { // the second in the place of the first
			if err := p.Keep(t.Context(), found); err != nil {
				t.Fatal(err)
			}
		}
		if all, err := p.schedules(); err != nil || len(all) != 1 {
			t.Errorf("%s: %d schedules, error %v", name, len(all), err)
		}
		for _, steps := range []string{"4", ""} {
			draw.Steps = steps
			got, err := p.Searched(draw)
			if err != nil || strings.Count(got.Timesteps, ",") != 3 || got.Steps != "4" {
				t.Errorf("%s: %q, %q: %v", name, got.Timesteps, got.Steps, err)
			}
			got.Process = nil
			if _, err := p.Sample(context.Background(), got); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			plan, err := got.planFor(&p.info.Process)
			near := func(a, b float64) bool { return math.Abs(a-b) <= 2e-6 } // noise itself is at 0.999999
			if err != nil || !slices.EqualFunc(plan.starts, found.Times, near) {
				t.Errorf("%s: steps begin at %v, want %v, error %v", name, plan, found.Times, err)
			}
		}
		other := found
		other.Times = append(slices.Clone(found.Times), found.Times[3]/2)
		if err := p.Keep(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		for want, change := range map[string]func(r *Request){
			"there are 4 steps of dpm++2m with guidance 2": func(r *Request) { r.Steps = "" },
			"none was searched for 6 steps of dpm++2m":     func(r *Request) { r.Steps = "6" },
			"none was searched for 4 steps of unipc2":      func(r *Request) { r.Solver = "unipc2" },
			"of dpm++2m with guidance 3 on":                func(r *Request) { r.CFGScale = 3 },
			"of dpm++2m without guidance":                  func(r *Request) { r.CFGScale = 1 },
			", rescaled by 0.5; there are":                 func(r *Request) { r.GuidanceRescale = 0.5 },
			onChannels:                                     func(r *Request) { r.Guided = channels },
			fmt.Sprintf("channels from %g to %g; there", interval[0], interval[1]): func(r *Request) {
				r.GuidanceInterval = interval
			},
		} {
			r := draw
			r.Steps = "4"
			change(&r)
			if _, err := p.Searched(r); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
		text, err := os.ReadFile(p.ScheduleFile())
		if err != nil {
			t.Fatal(err)
		}
		write := func(text string) {
			if err := os.WriteFile(p.ScheduleFile(), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		draw.Steps = "4"
		write(strings.ReplaceAll(string(text), found.Weights, strings.Repeat("0", 64)))
		if _, err := p.Searched(draw); err == nil || !strings.Contains(err.Error(), "is for other weights") {
			t.Errorf("%s: of other weights: %v", name, err)
		}
		write(`{"schedules": 1}`)
		if _, err := p.Searched(draw); err == nil || !strings.Contains(err.Error(), p.ScheduleFile()+": ") {
			t.Errorf("%s: a file of another form: %v", name, err)
		}
		if err := p.Keep(t.Context(), found); err == nil || !strings.Contains(err.Error(), p.ScheduleFile()+": ") {
			t.Errorf("%s: a file of another form is overwritten: %v", name, err)
		}
		asked := len(progress)
		if _, err := p.Search(context.Background(), r, 4); !errors.As(err, new(*FileError)) || len(progress) != asked {
			t.Errorf("%s: a search begins whose schedule cannot be kept: %v", name, err)
		}
		// Of searches that end at once each is kept.
		if err := os.Remove(p.ScheduleFile()); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for n := range 8 {
			other := found
			other.CFGScale = float64(2 + n)
			all.Go(func() {
				if err := p.Keep(t.Context(), other); err != nil {
					t.Error(name, err)
				}
			})
		}
		all.Wait()
		if all, err := p.schedules(); err != nil || len(all) != 8 {
			t.Errorf("%s: of 8 schedules %d are kept, error %v", name, len(all), err)
		}

		for want, change := range map[string]func(r *Request) int{
			"adds noise, so no two runs": func(r *Request) int {
				r.Solver = map[bool]string{false: "ddpm", true: "sde-euler"}[process.IsFlow()]
				return 4
			},
			"search-steps 16: 16 steps of 16: want 2 to 15": func(r *Request) int { return 16 },
			"num-samples 65: a search keeps the steps of all, want at most 64": func(r *Request) int {
				r.Labels = make([]int, 65)
				return 4
			},
		} {
			r := r
			n := change(&r)
			if _, err := p.Search(context.Background(), r, n); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
		stop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(context.Background())
		r.Progress = func(done, _ int) {
			if done == 20 {
				cancel(stop)
			}
		}
		if _, err := p.Search(ctx, r, 4); !errors.Is(err, stop) {
			t.Errorf("%s: interrupted: %v", name, err)
		}
	}
}

// A schedule that is worse on other noise than as many steps of the long run's grid is refused.
func TestSearchRefusesWorseSchedules(t *testing.T) {
	vaeDir, _ := newVAE(t, 4, 1)
	p, err := Open(torchtest.Device(t), newCheckpoint(t, func(*dit.Info) {}), Options{VAE: vaeDir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	refused := 0
	worse := "search-steps 6: on other noise the steps that were found end"
	for seed := range uint64(16) {
		r := Request{Labels: []int{1}, CFGScale: 1, Solver: "dpm++3m", Steps: "7", Seed: seed}
		found, err := p.Search(context.Background(), r, 6)
		switch {
		case err == nil && !(found.Error <= found.GridError):
			t.Errorf("seed %d: found %+v", seed, found)
		case err != nil && !strings.Contains(err.Error(), worse):
			t.Fatal(err)
		case err != nil:
			refused++
		}
	}
	if refused == 0 {
		t.Error("none of the searches fails")
	}
	t.Logf("%d of 16 refused", refused)
}

// A search asks about as many pictures at a time as the request says, and about each under its own condition.
func TestSearchGoesByTheBatchSize(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m := conditioned(t, s, dit.AdaLNZero, dit.OnClass)
		s = s.NoGrad()
		r := requestOf(s, m.Config())
		r.CFGScale, r.Solver, r.Steps = 2, "dpm++2m", "4"
		answers := map[int]*torch.Tensor{}
		for batch, sizes := range map[int][]int{3: {3}, 2: {2, 1}} {
			r.BatchSize = batch
			d, err := newDrawing(m, r)
			if err != nil {
				return err
			}
			noise, all, err := d.noiseForSearch(s, 5)
			if err != nil {
				return err
			}
			defer all.close()
			var got []int
			for _, v := range all {
				got = append(got, v.n)
			}
			if !slices.Equal(got, sizes) {
				t.Errorf("batch size %d: batches of %v, want %v", batch, got, sizes)
			}
			answers[batch] = all.at(500)(s, noise, torch.From(s, []int64{500, 500, 500}, 3))
		}
		if e := torchtest.Relative(s, answers[2], answers[3]); !(e < 1e-5) {
			t.Errorf("two batches: relative error %.2g from one", e)
		}
		return nil
	})
}

// The times that are listed are the steps, whatever draws them.
func TestListedTimes(t *testing.T) {
	repa := &dit.Process{Objective: "velocity", Path: "linear", NoiseAtOne: true, Shift: 3}
	for _, c := range []struct {
		r    Request
		want []float64
	}{
		{Request{Solver: "dpm++2m", Timesteps: "999,850,400"}, []float64{999, 850, 400}},
		{Request{Solver: "ddim", Timesteps: " 999, 5e2,0 ", Steps: "3"}, []float64{999, 500, 0}},
		{Request{Solver: "euler", Timesteps: "1,.5,0.2", Process: repa}, []float64{1, 0.5, 0.2}},
		{Request{Timesteps: "1,.5,0.2", Process: repa}, []float64{1, 0.5, 0.2}},
	} {
		p, err := c.r.planFor(c.r.Process)
		if err != nil || !slices.Equal(p.starts, c.want) {
			t.Errorf("%+v: steps at %v, error %v", c.r, p, err)
		}
		if r := c.r.WithDefaults(); r.Steps != "3" || r.DefaultTimesteps() {
			t.Errorf("%s steps on %q", r.Steps, r.Timesteps)
		}
	}
}

// planFor is the plan of a request with its defaults.
func (r Request) planFor(p *dit.Process) (*plan, error) {
	r.Process = p
	if p == nil {
		r.Process = &dit.Process{}
	}
	r.setDefaults()
	return r.plan()
}
