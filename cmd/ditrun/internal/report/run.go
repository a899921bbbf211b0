// Package report writes the folder of a training run: its configuration, the
// log in a form for people and one for programs, the loss curve and the
// preview pictures.
//
//	RESULTS/000-DiT-XL-2/
//	  config.yaml   complete and resolved: a run can be repeated from it
//	  run.json      run id, versions, device, git revision, start and resumptions
//	  log.jsonl     one object per log step (Step)
//	  log.txt       the lines people grep, in the form DiT writes them
//	  loss.png      the loss curve so far, and the error by timestep
//	  events.out.tfevents.*  the same for TensorBoard, one file a start
//	  samples/      one preview per sampling step
//	  checkpoints/  written by the training loop
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

	"github.com/google/uuid"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/picture"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/tfevents"
)

// Options says what a run folder is about.
type Options struct {
	// ResultsDir holds the numbered run folders; it is made when missing.
	ResultsDir string
	// Dir names the run folder itself. It wins over ResultsDir in Create.
	Dir string
	// Model is the model's name, "DiT-XL/2"; it is part of the folder's name.
	Model string
	// Config is the complete configuration, marshalled as YAML into
	// config.yaml: a struct with yaml tags or a *yaml.Node that keeps order.
	Config any
	// ConfigHash identifies the part of Config that a continued run must
	// share (see Latest).
	ConfigHash string
	// Command is the command line, for run.json.
	Command []string
	// Libtorch and Device describe what computes, in words.
	Libtorch, Device string
	// Console, when not nil, is given each line that goes to log.txt, without
	// its time stamp.
	Console func(line string)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Run is an open run folder. While it is open no other process can open it.
// Methods may be called from several goroutines.
type Run struct {
	mu      sync.Mutex
	dir     string
	opt     Options
	info    Info
	lock    *os.File
	jsonl   *os.File
	txt     *os.File
	events  *tfevents.Writer
	metrics *Metrics
	history []point // one per log step, for the loss curve
}

// logMode opens a log to add to it.
const logMode = os.O_CREATE | os.O_WRONLY | os.O_APPEND

type point struct {
	step int
	loss float64
	bins []Number
}

// Create makes a new run folder and writes config.yaml and run.json. Without
// o.Dir the folder is ResultsDir/NNN-MODEL, numbered one above the highest
// number there, and two runs started together get two numbers.
func Create(o Options) (*Run, error) {
	dir := o.Dir
	var err error
	if dir != "" {
		err = claim(dir)
	} else {
		dir, err = number(o.ResultsDir, o.Model)
	}
	if err != nil {
		return nil, err
	}
	r := &Run{dir: dir, opt: o}
	r.info = newInfo(o, r.now())
	r.info.RunID = uuid.NewString()
	r.metrics = newMetrics(r.info.RunID, r.info.Model)
	if err := r.open(nil); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Resume opens the folder of an earlier run to continue it after the given
// step. Records of later steps leave log.jsonl, since they will be made again;
// log.txt keeps them and says where the run was taken up.
func Resume(dir string, step int, o Options) (*Run, error) {
	info, err := ReadInfo(dir)
	if err != nil {
		return nil, err
	}
	if o.Model != "" && info.Model != o.Model {
		return nil, fmt.Errorf("resume %s: the run is of %s, want %s", dir, info.Model, o.Model)
	}
	o.Model = info.Model
	r := &Run{dir: dir, opt: o, info: *info, metrics: newMetrics(info.RunID, info.Model)}
	if r.opt.ConfigHash != "" {
		r.info.ConfigHash = r.opt.ConfigHash
	}
	r.info.Resumed = append(r.info.Resumed, Resumption{
		Step: step, Time: r.now(), Device: o.Device, Versions: currentVersions(o.Libtorch),
	})
	if err := r.open(&step); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.Printf("Resumed at step %07d", step)
	return r, nil
}

// open takes the lock and opens the logs; keep is the last step whose records
// stay, nil for a new run. Nothing is changed before the lock is held.
func (r *Run) open(keep *int) error {
	var err error
	if r.lock, err = lockFile(filepath.Join(r.dir, lockName)); err != nil {
		if errors.Is(err, errLocked) {
			return fmt.Errorf("run %s: in use by another process", r.dir)
		}
		return fmt.Errorf("run %s: %w", r.dir, err)
	}
	for _, d := range []string{r.Samples(), r.Checkpoints()} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return err
		}
	}
	logPath := filepath.Join(r.dir, "log.jsonl")
	if keep != nil {
		if r.history, err = truncateLog(logPath, *keep); err != nil {
			return err
		}
	}
	if r.opt.Config != nil {
		if err := writeYAML(filepath.Join(r.dir, "config.yaml"), r.opt.Config); err != nil {
			return err
		}
	}
	if err := r.info.write(r.dir); err != nil {
		return err
	}
	if r.jsonl, err = os.OpenFile(logPath, logMode, 0o666); err != nil {
		return err
	}
	if r.txt, err = os.OpenFile(filepath.Join(r.dir, "log.txt"), logMode, 0o666); err != nil {
		return err
	}
	if r.events, err = tfevents.Create(r.dir, r.now()); err != nil || keep == nil {
		return err
	}
	return r.events.Purge(r.now(), *keep+1)
}

// Dir is the run folder.
func (r *Run) Dir() string { return r.dir }

// ID is the run's uuid, the same after a resumption.
func (r *Run) ID() string { return r.info.RunID }

// Checkpoints is the folder for checkpoints; it exists.
func (r *Run) Checkpoints() string { return filepath.Join(r.dir, "checkpoints") }

// Samples is the folder for previews; it exists.
func (r *Run) Samples() string { return filepath.Join(r.dir, "samples") }

// LossPlot is the path that PlotLoss writes.
func (r *Run) LossPlot() string { return filepath.Join(r.dir, "loss.png") }

// Metrics are the figures of the last log step, for --metrics-addr.
func (r *Run) Metrics() *Metrics { return r.metrics }

// Log records one log step: a line in log.jsonl, one in log.txt (and on the
// console), and an event for TensorBoard. All are in the files when Log returns.
func (r *Run) Log(s Step) error {
	if s.Time.IsZero() {
		s.Time = r.now()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, point{s.Step, float64(s.Loss), s.Bins})
	r.metrics.set(s)
	line, err := s.json()
	if err != nil {
		return fmt.Errorf("write %s: %w", r.jsonl.Name(), err)
	}
	// One write for the line and its end: a run that is killed leaves at most
	// one torn line, the last, which Resume drops.
	if _, err := r.jsonl.Write(line); err != nil {
		return err
	}
	if err := r.events.Scalars(s.Time, s.Step, s.scalars()); err != nil {
		return err
	}
	return r.print(s.Time, s.String())
}

// Printf adds a line to log.txt, with the time before it, and to the console.
// A failed write shows in the next Log, which returns it.
func (r *Run) Printf(f string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.print(r.now(), fmt.Sprintf(f, args...))
}

// Note adds a line to log.txt alone, for what the console is told otherwise.
func (r *Run) Note(f string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintf(r.txt, "[%s] %s\n", r.now().Format("2006-01-02 15:04:05"), fmt.Sprintf(f, args...))
}

// Rollback takes records of steps later than step out of log.jsonl and off the
// curves of TensorBoard, since they will be made again; log.txt keeps them and
// says so.
func (r *Run) Rollback(step int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := r.jsonl.Name()
	if err := r.jsonl.Close(); err != nil {
		return err
	}
	var err error
	if r.history, err = truncateLog(path, step); err != nil {
		return err
	}
	if r.jsonl, err = os.OpenFile(path, logMode, 0o666); err != nil {
		return err
	}
	if err := r.events.Purge(r.now(), step+1); err != nil {
		return err
	}
	return r.print(r.now(), fmt.Sprintf("Went back to step %07d", step))
}

func (r *Run) print(t time.Time, line string) error {
	line = strings.TrimRight(line, "\n")
	if r.opt.Console != nil {
		r.opt.Console(line)
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
	return path, addPicture(r.events, r.now(), step, img)
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
	return plotLoss(r.LossPlot(), r.info.Model, points)
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
	// The lock last: until then the logs are this process's.
	for _, f := range []**os.File{&r.jsonl, &r.txt, &r.lock} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	return errors.Join(errs...)
}

func (r *Run) now() time.Time {
	if r.opt.Now != nil {
		return r.opt.Now()
	}
	return time.Now()
}
