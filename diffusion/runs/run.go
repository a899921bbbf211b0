// Package runs keeps the folders of training runs: makes and numbers them, finds the one to continue,
// and keeps its configuration and its log.
//
//	RESULTS/000-DiT-XL-2/
//	  config.yaml   complete and resolved: a run can be repeated from it
//	  run.json      run id, versions, device, git revision, start and resumptions (Info)
//	  log.jsonl     one object per log step (Step)
//	  samples/      one preview per sampling step
//	  checkpoints/  written by the training loop
package runs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ditrun/ditrun/internal/disk"
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
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Run is an open run folder. While it is open no other process can open it.
// Methods may be called from several goroutines.
type Run struct {
	mu   sync.Mutex
	dir  string
	opt  Options
	info Info
	lock *disk.Lock
	log  *os.File
	past []Step // records of what was trained before
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
	r.info = newInfo(o, r.Now())
	r.info.RunID = uuid.NewString()
	if err := r.open(nil); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Resume opens the folder of an earlier run to continue it after the given
// step. Records of later steps leave log.jsonl, since they will be made again.
func Resume(dir string, step int, o Options) (*Run, error) {
	info, err := ReadInfo(dir)
	if err != nil {
		return nil, err
	}
	if o.Model != "" && info.Model != o.Model {
		return nil, fmt.Errorf("resume %s: the run is of %s, want %s", dir, info.Model, o.Model)
	}
	o.Model = info.Model
	r := &Run{dir: dir, opt: o, info: *info}
	if r.opt.ConfigHash != "" {
		r.info.ConfigHash = r.opt.ConfigHash
	}
	r.info.Resumed = append(r.info.Resumed, Resumption{
		Step: step, Time: r.Now(), Device: o.Device, Versions: currentVersions(o.Libtorch),
	})
	if err := r.open(&step); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// open takes the lock and opens the log; keep is the last step whose records
// stay, nil for a new run. Nothing is changed before the lock is held.
func (r *Run) open(keep *int) error {
	var err error
	if r.lock, err = disk.TryLock(filepath.Join(r.dir, lockName)); err != nil {
		if errors.Is(err, disk.ErrLocked) {
			return fmt.Errorf("run %s: in use by another process", r.dir)
		}
		return fmt.Errorf("run %s: %w", r.dir, err)
	}
	for _, d := range []string{r.Samples(), r.Checkpoints()} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return err
		}
	}
	disk.SweepFolder(r.dir)
	disk.SweepFolder(r.Samples())
	if keep != nil {
		if r.past, err = truncateLog(r.logPath(), *keep); err != nil {
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
	r.log, err = os.OpenFile(r.logPath(), LogMode, 0o666)
	return err
}

// LogMode opens a log to add to it.
const LogMode = os.O_CREATE | os.O_WRONLY | os.O_APPEND

// Dir is the run folder.
func (r *Run) Dir() string { return r.dir }

// Info is the content of run.json.
func (r *Run) Info() Info { return r.info }

// Checkpoints is the folder for checkpoints; it exists.
func (r *Run) Checkpoints() string { return filepath.Join(r.dir, "checkpoints") }

// Samples is the folder for previews; it exists.
func (r *Run) Samples() string { return filepath.Join(r.dir, "samples") }

func (r *Run) logPath() string { return filepath.Join(r.dir, "log.jsonl") }

// Past are the records of the steps before those that this process trains.
func (r *Run) Past() []Step { return r.past }

// Log adds a record to log.jsonl; it is in the file when Log returns.
func (r *Run) Log(s Step) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	line, err := s.json()
	if err != nil {
		return fmt.Errorf("write %s: %w", r.logPath(), err)
	}
	// One write for the line and its end: a run that is killed leaves at most
	// one torn line, the last, which Resume drops.
	_, err = r.log.Write(line)
	return err
}

// Rollback takes records of steps later than step out of log.jsonl, since they will be made again, and returns those that
// stay.
func (r *Run) Rollback(step int) ([]Step, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.log.Close(); err != nil {
		return nil, err
	}
	steps, err := truncateLog(r.logPath(), step)
	if err != nil {
		return nil, err
	}
	r.log, err = os.OpenFile(r.logPath(), LogMode, 0o666)
	return steps, err
}

// Close closes the log and gives the folder free. It may be called again.
func (r *Run) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	if r.log != nil {
		errs = append(errs, r.log.Close())
		r.log = nil
	}
	// The lock last: until then the log is this process's.
	if r.lock != nil {
		errs = append(errs, r.lock.Unlock())
		r.lock = nil
	}
	return errors.Join(errs...)
}

// Now is the time by the clock of the options.
func (r *Run) Now() time.Time {
	if r.opt.Now != nil {
		return r.opt.Now()
	}
	return time.Now()
}
