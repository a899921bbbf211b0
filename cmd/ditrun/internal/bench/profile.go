package bench

import (
	"cmp"
	"errors"
	"time"

	"github.com/ditrun/ditrun/torch"
)

// A Profile tells what the device did in one round that does not count.
type Profile struct {
	Steps   int      `json:"steps"`
	Seconds float64  `json:"seconds"` // of the round, which the profiler makes longer
	Timings []Timing `json:"timings"` // the longest first
}

// A Timing is what all calls of a kernel took, or on the CPU of an operation without those that it calls.
type Timing struct {
	Name    string  `json:"name"`
	Calls   int     `json:"calls"`
	Seconds float64 `json:"seconds"`
}

// A stopwatch is a profile that is being taken.
type stopwatch struct {
	job   *Job
	began time.Time
}

// profile begins a profile, which ends on the same thread.
func (j *Job) profile() (*stopwatch, error) {
	if err := j.Device.Synchronize(); err != nil {
		return nil, err
	}
	if err := torch.StartProfile(j.Device); err != nil {
		return nil, err
	}
	return &stopwatch{j, time.Now()}, nil
}

// stop ends the profile in any case: no other can begin before.
func (w *stopwatch) stop() (*Profile, error) {
	failed := w.job.Device.Synchronize()
	p := &Profile{Steps: w.job.Steps, Seconds: time.Since(w.began).Seconds()}
	timings, err := torch.StopProfile(w.job.Device)
	if err = cmp.Or(failed, err); err != nil {
		return nil, err
	}
	if len(timings) == 0 {
		return nil, errors.New("the profiler of libtorch measured nothing: another one may have the GPU, or the " +
			"driver allows none")
	}
	for _, t := range timings {
		p.Timings = append(p.Timings, Timing{t.Name, t.Calls, t.Time.Seconds()})
	}
	return p, nil
}
