// Package report shows a training run while it goes on: lines for people, the loss curve, preview
// pictures, TensorBoard and Prometheus. What it writes lies in the run's folder (package runs):
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

	"github.com/ditrun/ditrun/cmd/ditrun/internal/picture"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/tfevents"
	"github.com/ditrun/ditrun/diffusion/runs"
)

// A Run is an open run folder with all that shows it. Methods may be called from several goroutines.
type Run struct {
	*runs.Run
	console func(line string)

	mu      sync.Mutex
	txt     *os.File
	events  *tfevents.Writer
	metrics *Metrics
	history []point // one per log step, for the loss curve
}

type point struct {
	step int
	loss float64
	bins []runs.Number
}

// Create makes a new run folder, see [runs.Create]. Console, when not nil, is given each line that goes to log.txt, without
// its time stamp.
func Create(o runs.Options, console func(line string)) (*Run, error) {
	r, err := runs.Create(o)
	if err != nil {
		return nil, err
	}
	return show(r, console, nil)
}

// Resume opens the folder of an earlier run to continue it after the given step, see [runs.Resume]. log.txt keeps the lines
// of later steps and says where the run was taken up.
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
	if r.txt, err = os.OpenFile(filepath.Join(r.Dir(), "log.txt"), runs.LogMode, 0o666); err != nil {
		return err
	}
	if r.events, err = tfevents.Create(r.Dir(), r.Now()); err != nil || resumed == nil {
		return err
	}
	return r.events.Purge(r.Now(), *resumed+1)
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

// Log records one log step: a line in log.jsonl, one in log.txt (and on the
// console), and an event for TensorBoard. All are in the files when Log returns.
func (r *Run) Log(s runs.Step) error {
	if s.Time.IsZero() {
		s.Time = r.Now()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, points([]runs.Step{s})...)
	r.metrics.set(s)
	if err := r.Run.Log(s); err != nil {
		return err
	}
	if err := r.events.Scalars(s.Time, s.Step, scalars(s)); err != nil {
		return err
	}
	return r.print(s.Time, Line(s))
}

// Printf adds a line to log.txt, with the time before it, and to the console.
// A failed write shows in the next Log, which returns it.
func (r *Run) Printf(f string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.print(r.Now(), fmt.Sprintf(f, args...))
}

// Note adds a line to log.txt alone, for what the console is told otherwise.
func (r *Run) Note(f string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintf(r.txt, "[%s] %s\n", r.Now().Format("2006-01-02 15:04:05"), fmt.Sprintf(f, args...))
}

// Rollback takes records of steps later than step out of log.jsonl and off the
// curves of TensorBoard, since they will be made again; log.txt keeps them and
// says so.
func (r *Run) Rollback(step int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	steps, err := r.Run.Rollback(step)
	if err != nil {
		return err
	}
	r.history = points(steps)
	if err := r.events.Purge(r.Now(), step+1); err != nil {
		return err
	}
	return r.print(r.Now(), fmt.Sprintf("Went back to step %07d", step))
}

func (r *Run) print(t time.Time, line string) error {
	line = strings.TrimRight(line, "\n")
	if r.console != nil {
		r.console(line)
	}
	_, err := fmt.Fprintf(r.txt, "[%s] %s\n", t.Format("2006-01-02 15:04:05"), line)
	return err
}

// Preview writes img as samples/0012000.png for step 12000 and returns the
// path. TensorBoard gets it too, smaller.
func (r *Run) Preview(step int, img image.Image) (string, error) {
	path := filepath.Join(r.Samples(), fmt.Sprintf("%07d.png", step))
	if err := picture.WritePNG(path, img); err != nil {
		return path, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return path, addPicture(r.events, r.Now(), step, img)
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
		r.txt = nil
	}
	return errors.Join(append(errs, r.Run.Close())...)
}
