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
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
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
	// Derived is that of Info.
	Derived []string
	// Command is the command line, for run.json.
	Command []string
	// From is the checkpoint of another program that the run begins from, "" for none.
	From string
	// Libtorch and Device describe what computes, in words; Attention names libtorch's kernels for attention.
	Libtorch, Device, Attention string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Run is an open run folder. While it is open no other process can open it.
// Methods may be called from several goroutines.
//
// What a Run keeps are records: a failure to write one is no reason to end the training. Methods return such errors so
// that the user learns of them, and write what is missing at the next call.
type Run struct {
	mu    sync.Mutex
	dir   string
	root  *os.File // the folder itself, wherever it is moved
	opt   Options
	info  Info
	lock  *disk.Lock
	log   *disk.Log
	steps []Step // all records of the log
	past  int    // how many of them an earlier process made
	notes []string
}

// LogName is the log of a run, that [ReadLog] reads.
const LogName = "log.jsonl"

// ConfigName is the complete configuration in a run folder.
const ConfigName = "config.yaml"

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
// Records that are damaged are set aside, which Notes says.
func Resume(dir string, step int, o Options) (*Run, error) {
	r := &Run{dir: dir, opt: o}
	info, err := ReadInfo(dir)
	switch {
	case err == nil:
		r.info = *info
	case !hasCheckpoints(dir):
		return nil, err
	default:
		// The checkpoints are what counts.
		r.info = newInfo(o, r.Now())
		r.info.RunID = uuid.NewString()
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s has checkpoints and no %s", dir, infoName)
		}
		r.note("%v: the run goes on under a new id, %s", err, r.info.RunID)
	}
	if o.Model != "" && r.info.Model != o.Model {
		return nil, fmt.Errorf("resume %s: the run is of %s, want %s", dir, r.info.Model, o.Model)
	}
	r.opt.Model = r.info.Model
	if r.opt.ConfigHash != "" {
		r.info.ConfigHash = r.opt.ConfigHash
	}
	r.info.Derived = o.Derived
	r.info.Resumed = append(r.info.Resumed, Resumption{
		Step: step, Time: r.Now(), Device: o.Device, Attention: o.Attention, Versions: currentVersions(o.Libtorch),
	})
	if err := r.open(&step); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// open takes the lock and opens the log; keep is the last step whose records
// stay, nil for a new run. Nothing is changed before the lock is held.
func (r *Run) open(keep *int) error {
	if err := r.take(); err != nil {
		return err
	}
	disk.SweepFolder(r.dir)
	disk.SweepFolder(r.Samples())
	if keep == nil {
		if err := r.describe(); err != nil {
			return err
		}
		var err error
		r.log, err = disk.OpenLog(r.logPath())
		return err
	}
	if err := r.setAside(infoName, r.info.RunID); err != nil {
		r.note("%v", err)
	}
	if err := r.describe(); err != nil {
		r.note("%v", err)
	}
	steps, damaged, err := readLog(r.logPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.note("%v: the log begins anew", err)
	}
	if len(damaged) > 0 {
		aside := r.logPath() + damagedSuffix
		r.note("%s: %s cannot be read: set aside in %s", r.logPath(), names.Plural(len(damaged), "line"),
			filepath.Base(aside))
		if err := disk.WriteBytes(aside, bytes.Join(damaged, nil)); err != nil {
			r.note("%v", err)
		}
	}
	r.steps = slices.DeleteFunc(steps, func(s Step) bool { return s.Step > *keep })
	r.past = len(r.steps)
	if err := r.rewrite(); err != nil {
		r.note("%v", err)
	}
	return nil
}

// take makes the run folder this process's.
func (r *Run) take() (err error) {
	if r.lock, err = disk.TryLock(filepath.Join(r.dir, lockName)); err != nil {
		if errors.Is(err, disk.ErrLocked) {
			return fmt.Errorf("run %s: in use by another process", r.dir)
		}
		return fmt.Errorf("run %s: %w", r.dir, err)
	}
	if !r.lock.Held() {
		r.note("%s is on a file system without locks: a second process could write to this run too", r.dir)
	}
	for _, d := range []string{r.Samples(), r.Checkpoints()} {
		// A file in their place concerns previews and checkpoints, which say so when they are made.
		if err := os.MkdirAll(d, 0o777); err != nil && !errors.Is(err, syscall.ENOTDIR) {
			return err
		}
	}
	r.root, err = os.Open(r.dir)
	return err
}

// describe writes what the run is.
func (r *Run) describe() error {
	var errs []error
	if r.opt.Config != nil {
		errs = append(errs, writeYAML(filepath.Join(r.dir, ConfigName), r.opt.Config))
	}
	return errors.Join(append(errs, r.info.write(r.dir))...)
}

// setAside renames a run.json of another id, which could not be read.
func (r *Run) setAside(name, id string) error {
	path := filepath.Join(r.dir, name)
	if info, err := ReadInfo(r.dir); err == nil && info.RunID == id || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.Rename(path, path+damagedSuffix)
}

// damagedSuffix ends the names of records that were set aside.
const damagedSuffix = ".damaged"

// rewrite makes the log anew of all records.
func (r *Run) rewrite() error {
	if r.log != nil {
		r.log.Close()
	}
	var text bytes.Buffer
	for _, s := range r.steps {
		line, err := s.json()
		if err != nil {
			return err
		}
		text.Write(line)
	}
	var err error
	if err = disk.WriteBytes(r.logPath(), text.Bytes()); err == nil {
		r.log, err = disk.OpenLog(r.logPath())
	}
	return err
}

func (r *Run) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// Notes say what was wrong with the folder when it was opened, and what was done about it.
func (r *Run) Notes() []string { return r.notes }

// Dir is the run folder.
func (r *Run) Dir() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dir
}

// SetProducts writes how matrix products are computed to run.json, where that is news.
func (r *Run) SetProducts(lines []string) error {
	if slices.Equal(lines, r.info.Products) {
		return nil
	}
	info := r.info
	info.Products = lines
	if err := info.write(r.Dir()); err != nil {
		return err
	}
	r.info = info
	return nil
}

// Info is the content of run.json.
func (r *Run) Info() Info { return r.info }

// Checkpoints is the folder for checkpoints.
func (r *Run) Checkpoints() string { return filepath.Join(r.dir, CheckpointsName) }

// Samples is the folder for previews.
func (r *Run) Samples() string { return filepath.Join(r.dir, "samples") }

func (r *Run) logPath() string { return filepath.Join(r.dir, LogName) }

// Past are the records of the steps before those that this process trains.
func (r *Run) Past() []Step { return r.steps[:r.past] }

// Log adds a record to log.jsonl; it is in the file when Log returns without an error, else it comes with the next one.
func (r *Run) Log(s Step) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, s)
	if r.log == nil || !r.log.Here() { // removed, or never made
		return r.rewrite()
	}
	line, err := s.json()
	if err != nil {
		return fmt.Errorf("write %s: %w", r.logPath(), err)
	}
	// One write for the line and its end: a run that is killed leaves at most
	// one torn line, the last, which Resume drops.
	return r.log.Add(string(line))
}

// Rollback takes records of steps later than step out of log.jsonl, since they will be made again, and returns
// those that stay.
func (r *Run) Rollback(step int) ([]Step, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = slices.DeleteFunc(r.steps, func(s Step) bool { return s.Step > step })
	return slices.Clone(r.steps), r.rewrite()
}

// Follow looks whether the run folder is where it was. One that was moved is followed; in the place of one that was
// removed another is made, with all records. It says in words what it found, "" where nothing happened.
func (r *Run) Follow() (news string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if same(r.root, r.dir) {
		return "", nil
	}
	old := r.dir
	// Linux keeps the present path of an open folder there.
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", r.root.Fd()))
	if err == nil && same(r.root, path) {
		r.dir = path
		return fmt.Sprintf("the run folder %s was moved to %s: the run goes on there", old, path), r.rewrite()
	}
	r.lock.Unlock()
	r.root.Close()
	if _, err := os.Stat(filepath.Join(r.dir, infoName)); err == nil { // of another run
		r.dir += "-" + r.info.RunID[:8]
	}
	news = fmt.Sprintf("the run folder %s is gone, with what was in it: the run goes on in %s", old, r.dir)
	if err := os.MkdirAll(r.dir, 0o777); err != nil {
		return news, err
	}
	return news, errors.Join(r.take(), r.describe(), r.rewrite())
}

// same says whether path is the open folder f.
func same(f *os.File, path string) bool {
	here, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(here, there)
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
	if r.root != nil {
		r.root.Close()
		r.root = nil
	}
	// The lock last: until then the folder is this process's.
	if r.lock != nil {
		// What could not be removed when it was written, as in a folder that was read-only for a while.
		disk.SweepFolder(r.dir)
		disk.SweepFolder(r.Samples())
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
