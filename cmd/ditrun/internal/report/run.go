// Package report shows a training run while it goes on: lines for people, the loss curve, preview
// pictures, TensorBoard and Prometheus. What it writes is in the run's folder (package runs):
//
//	log.txt       the lines people grep, in the form DiT writes them
//	loss.png      the loss curve so far, and the error by timestep
//	events.out.tfevents.*  the same for TensorBoard, one file a start
//	samples/      one preview per sampling step
package report

import (
	"errors"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/tfevents"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/internal/disk"
)

// A Run is an open run folder with all that shows it. Methods may be called from several goroutines.
type Run struct {
	*runs.Run
	console func(line string)

	mu      sync.Mutex
	txt     *disk.Log
	events  *tfevents.Writer // nil after it could not be written
	metrics *Metrics
	history []point // one per log step, for the loss curve
}

type point struct {
	step int
	loss float64
	bins []runs.Number
}

// Create makes a new run folder, see [runs.Create]. Console, when not nil, is given each line that [Run.Printf] adds to
// log.txt, without its time stamp.
func Create(o runs.Options, console func(line string)) (*Run, error) {
	r, err := runs.Create(o)
	if err != nil {
		return nil, err
	}
	return show(r, console, nil)
}

// Resume opens the folder of an earlier run to continue it after the given step, see [runs.Resume]. log.txt keeps
// the lines of later steps and says where the run was taken up.
func Resume(dir string, step int, o runs.Options, console func(line string)) (*Run, error) {
	run, err := runs.Resume(dir, step, o)
	if err != nil {
		return nil, err
	}
	r, err := show(run, console, &step)
	if err != nil {
		return nil, err
	}
	r.Printf("Resumed at step %07d", step)
	return r, nil
}

// show opens what shows the run; resumed is the step at which it is taken up.
func show(run *runs.Run, console func(string), resumed *int) (*Run, error) {
	r := &Run{Run: run, console: console, metrics: newMetrics(run.Info().RunID, run.Info().Model)}
	r.history = points(run.Past())
	if err := r.open(resumed); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Run) open(resumed *int) (err error) {
	if r.txt, err = disk.OpenLog(filepath.Join(r.Dir(), "log.txt")); err != nil && resumed == nil {
		return err
	}
	err = r.event(func(w *tfevents.Writer) error {
		if resumed == nil {
			return nil
		}
		return w.Purge(r.Now(), *resumed+1)
	})
	if resumed != nil {
		return nil // what cannot be written now is tried again
	}
	return err
}

// event writes to the event file. After a failure, which may have left half an event, a new file is begun at the next.
func (r *Run) event(write func(*tfevents.Writer) error) (err error) {
	if r.events == nil {
		if r.events, err = tfevents.Create(r.Dir(), r.Now()); err != nil {
			r.events = nil
			return err
		}
	}
	if err = write(r.events); err != nil {
		r.events.Close()
		r.events = nil
	}
	return err
}

func points(steps []runs.Step) (all []point) {
	for _, s := range steps {
		all = append(all, point{s.Step, float64(s.Loss), s.Bins})
	}
	return all
}

// ID is the run's uuid, the same after a resumption.
func (r *Run) ID() string { return r.Info().RunID }

// LossPlot is the path that PlotLoss writes.
func (r *Run) LossPlot() string { return filepath.Join(r.Dir(), "loss.png") }

// Metrics are the figures of the last log step, for --metrics-addr.
func (r *Run) Metrics() *Metrics { return r.metrics }

// Log records one log step: a line in log.jsonl, one in log.txt, and an event for TensorBoard; [ShortLine] is for the
// console. Each is tried whatever becomes of the others; lines that could not be written come with those of the next
// log step.
func (r *Run) Log(s runs.Step) error {
	if s.Time.IsZero() {
		s.Time = r.Now()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, points([]runs.Step{s})...)
	r.metrics.set(s)
	return errors.Join(
		r.Run.Log(s),
		r.event(func(w *tfevents.Writer) error { return w.Scalars(s.Time, s.Step, scalars(s)) }),
		r.write(s.Time, Line(s)))
}

// Printf adds a line to log.txt, with the time before it, and to the console.
// A failed write shows in the next Log, which returns it.
func (r *Run) Printf(f string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.print(r.Now(), fmt.Sprintf(f, args...))
}

// Note adds a line to log.txt alone, for what the console shows in another way.
func (r *Run) Note(f string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.write(r.Now(), fmt.Sprintf(f, args...))
}

// Rollback takes records of steps later than step out of log.jsonl and off the
// curves of TensorBoard, since they will be made again; log.txt keeps them and
// says so.
func (r *Run) Rollback(step int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	steps, err := r.Run.Rollback(step)
	r.history = points(steps)
	return errors.Join(err,
		r.event(func(w *tfevents.Writer) error { return w.Purge(r.Now(), step+1) }),
		r.print(r.Now(), fmt.Sprintf("Went back to step %07d", step)))
}

// Follow is [runs.Run.Follow]; what shows the run goes on where the folder is.
func (r *Run) Follow() (news string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	news, err = r.Run.Follow()
	if news == "" {
		return news, err
	}
	r.txt.Close()
	if r.events != nil {
		r.events.Close()
		r.events = nil
	}
	var txtErr error
	r.txt, txtErr = disk.OpenLog(filepath.Join(r.Dir(), "log.txt"))
	return news, errors.Join(err, txtErr)
}

func (r *Run) print(t time.Time, line string) error {
	line = strings.TrimRight(line, "\n")
	if r.console != nil {
		r.console(line)
	}
	return r.write(t, line)
}

func (r *Run) write(t time.Time, line string) error {
	return r.txt.Add(fmt.Sprintf("[%s] %s\n", t.Format("2006-01-02 15:04:05"), format.Line(line)))
}

// Preview writes img as samples/0012000.png for step 12000 and returns the
// path. TensorBoard gets it too, smaller.
func (r *Run) Preview(step int, img image.Image) (string, error) {
	path := filepath.Join(r.Samples(), fmt.Sprintf("%07d.png", step))
	r.mu.Lock()
	defer r.mu.Unlock()
	os.Mkdir(r.Samples(), 0o777) // where it alone was removed; else WritePNG says what is wrong
	return path, errors.Join(
		sheet.WritePNG(path, img),
		r.event(func(w *tfevents.Writer) error { return addPicture(w, r.Now(), step, img) }))
}

// PlotLoss redraws loss.png from all log steps so far; without any it does
// nothing.
func (r *Run) PlotLoss() error {
	r.mu.Lock()
	points := append([]point(nil), r.history...)
	r.mu.Unlock()
	if len(points) == 0 {
		return nil
	}
	return plotLoss(r.LossPlot(), r.Info().Model, points)
}

// Close closes the logs and gives the folder free. It may be called again.
func (r *Run) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	if r.events != nil {
		errs = append(errs, r.events.Close())
		r.events = nil
	}
	if r.txt != nil {
		errs = append(errs, r.txt.Close())
	}
	return errors.Join(append(errs, r.Run.Close())...)
}
