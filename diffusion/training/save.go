package training

import (
	"errors"
	"fmt"
	"time"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// save begins to write the checkpoint of the current step, from a copy of everything in host memory. An earlier one
// is finished first. Its error is one after which the processes cannot go on; that a checkpoint could not be
// written is none. A run without a folder for them writes none.
func (r *runner) save(s *torch.Scope) error {
	if r.saver.dir == "" && r.hooks.Dir == nil { // a run of which nothing is kept
		r.saved = r.step
		return nil
	}
	began := time.Now()
	defer func() { r.window.saving += time.Since(began).Seconds() }()
	r.finishSave()
	if r.hooks.Dir != nil {
		r.saver.dir = r.hooks.Dir()
	}
	shot, err := r.opt.Snapshot(s.NoGrad())
	if err != nil {
		err = fmt.Errorf("save checkpoint of step %d: %w", r.step, err)
		if r.group.World() > 1 {
			return err
		}
		r.savedOne(savedNews{Step: r.step, Error: err.Error(), Momentary: true})
		return nil
	}
	w, st, info := r.saver, r.state(), r.info()
	w.saves++
	number := w.saves
	w.pending = make(chan savedNews, 1)
	go func() {
		news := w.write(number, shot, st, info)
		shot.Close() // before the next save can begin
		w.pending <- news
	}()
	return nil
}

// pollSave reports a save that has ended.
func (r *runner) pollSave() {
	select {
	case news := <-r.saver.pending:
		r.savedOne(news)
	default:
	}
}

// finishSave waits for a save under way.
func (r *runner) finishSave() {
	if r.saver.pending != nil {
		if r.hooks.Saving != nil {
			r.hooks.Saving()
		}
		r.savedOne(<-r.saver.pending)
	}
}

func (r *runner) savedOne(news savedNews) {
	r.saver.pending = nil
	if news.Error != "" {
		r.unsaved.failed(time.Now(), news)
		if !r.ending && news.Step < r.total { // else lastSave says how it ends
			r.warn("%s; the run goes on, and tries again", news.Error)
		}
		return
	}
	for _, text := range news.notes {
		r.warn("%s", text)
	}
	r.unsaved = retry{}
	r.saved = news.Step
	if news.path == "" { // rank 0 reports
		return
	}
	r.result.Checkpoint = news.path
	r.bad.rollbacks = 0
	if r.hooks.Saved != nil {
		r.hooks.Saved(news.path, news.Step)
	}
}

// A retry is a checkpoint that could not be written, and when to write another in its place.
type retry struct {
	news  savedNews
	at    time.Time
	pause time.Duration // 0: there is none
}

// The pauses between two tries grow within these.
const (
	firstPause = 2 * time.Second
	lastPause  = 10 * time.Minute
)

func (t *retry) failed(now time.Time, news savedNews) {
	t.pause = min(max(2*t.pause, firstPause), lastPause)
	t.at, t.news = now.Add(t.pause), news
}

func (t *retry) due(now time.Time) bool { return t.pause > 0 && now.After(t.at) }

// pauses stand between two tries of what may succeed a little later.
type pauses struct {
	read []time.Duration // to read data
	file []time.Duration // to write a file of a checkpoint
	last []time.Duration // to write the last checkpoint of a run
}

func defaultPauses() *pauses {
	s := time.Second
	return &pauses{
		read: []time.Duration{s, 5 * s, 15 * s, 30 * s},
		file: []time.Duration{s / 10, s},
		last: []time.Duration{s, 4 * s, 10 * s},
	}
}

// lastSave writes the checkpoint with which the run ends, where that is not written yet.
func (r *runner) lastSave(s *torch.Scope) error {
	r.ending = true
	r.finishSave()
	for try := 0; r.saved != r.step; try++ {
		// not of another step, with which something else may have been wrong
		if failed := r.unsaved.news; failed.Step == r.step {
			if !failed.Momentary || try == len(r.pauses.last) {
				return errors.New(failed.Error)
			}
			r.warn("%s: tried again in %v", failed.Error, r.pauses.last[try])
			time.Sleep(r.pauses.last[try])
		}
		if err := r.save(s); err != nil {
			return err
		}
		r.finishSave()
	}
	return nil
}

// rescue saves what was trained before an error with which all processes end. Weights that are not finite are of no
// use.
func (r *runner) rescue(s *torch.Scope) {
	r.finishSave()
	if r.busy || r.saved == r.step {
		return
	}
	r.saver.keepLast = 0 // the ones before may be wanted yet
	err := s.Try(func(s *torch.Scope) error {
		if !r.finite(s) {
			r.warn("the weights are not finite numbers: no checkpoint of step %d is written", r.step)
			return nil
		}
		return r.save(s)
	})
	if err != nil {
		r.warn("%v", err)
	}
	r.finishSave()
}

// finite says whether all weights are finite numbers.
func (r *runner) finite(s *torch.Scope) bool {
	s = s.NoGrad()
	var all []*torch.Tensor
	for _, p := range nn.List(r.model) {
		all = append(all, s.To(s.All(s.IsFinite(p.Tensor)), torch.Float32))
	}
	return s.Mean(s.Stack(all, 0)).Item() == 1
}

func (r *runner) warn(format string, args ...any) {
	if r.hooks.Warn != nil {
		r.hooks.Warn(fmt.Sprintf(format, args...))
	}
}
