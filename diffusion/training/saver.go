package training

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/optim"
)

// asideMark is in the names of folders that are being written or removed.
const asideMark = ".tmp-"

// saveTimeout is how long a process waits for the others to write their part of a checkpoint.
const saveTimeout = 30 * time.Minute

// A saver writes checkpoints while training goes on, one at a time. Every process writes its part of the optimizer, rank 0
// the weights too; it alone publishes: aside, synced, renamed, `latest` last. Killed at any moment it leaves the
// checkpoints before it as they were.
type saver struct {
	dir                 string
	group               *dist.Group
	keepLast, keepEvery int

	saves   int            // begun, the same on all processes
	pending chan savedNews // nil when none is under way
	cancel  context.CancelFunc
	ctx     context.Context
}

type savedNews struct {
	step int
	path string
	err  error
}

func newSaver(dir string, group *dist.Group, cfg Config) *saver {
	w := &saver{dir: dir, group: group, keepLast: cfg.KeepLast, keepEvery: cfg.KeepEvery}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// abandon stops waiting for other processes. What is only written here is finished.
func (w *saver) abandon() { w.cancel() }

func (w *saver) close() {
	w.cancel()
	if w.pending != nil {
		<-w.pending
	}
}

// save begins to write the checkpoint of the current step, from a copy of everything in host memory. An earlier one is
// finished first.
func (r *runner) save(s *torch.Scope) error {
	began := time.Now()
	defer func() { r.window.saving += time.Since(began).Seconds() }()
	if err := r.finishSave(); err != nil {
		return err
	}
	shot, err := r.opt.Snapshot(s.NoGrad())
	if err != nil {
		return fmt.Errorf("save checkpoint of step %d: %w", r.step, err)
	}
	w, st, info := r.saver, r.state(), r.info()
	w.saves++
	number := w.saves
	w.pending = make(chan savedNews, 1)
	go func() {
		path, err := w.write(number, shot, st, info)
		shot.Close() // before the next save can begin
		if err != nil {
			err = fmt.Errorf("save checkpoint of step %d: %w", st.Step, err)
		}
		w.pending <- savedNews{st.Step, path, err}
	}()
	r.saved, r.result.Step = r.step, r.step
	return nil
}

// pollSave reports a save that has ended.
func (r *runner) pollSave() error {
	select {
	case news := <-r.saver.pending:
		return r.savedOne(news)
	default:
		return nil
	}
}

// finishSave waits for a save under way.
func (r *runner) finishSave() error {
	if r.saver.pending == nil {
		return nil
	}
	return r.savedOne(<-r.saver.pending)
}

func (r *runner) savedOne(news savedNews) error {
	r.saver.pending = nil
	if news.err != nil || news.path == "" {
		return news.err
	}
	r.result.Checkpoint = news.path
	r.bad.rollbacks = 0
	if r.hooks.Saved != nil {
		r.hooks.Saved(news.path, news.step)
	}
	return nil
}

// write writes this process's part of a checkpoint and, on rank 0, makes it one. The path is known to rank 0.
func (w *saver) write(number int, shot *optim.Snapshot, st state, info dit.Info) (path string, err error) {
	rank, world := w.group.Rank(), w.group.World()
	ctx, cancel := context.WithTimeout(w.ctx, saveTimeout)
	defer cancel()
	key := func(what any) string { return fmt.Sprintf("save/%d/%v", number, what) }
	if rank > 0 {
		folder, err := w.group.Store().Get(ctx, key("folder"))
		if err != nil {
			return "", err
		}
		file, err := w.writeOptimizer(string(folder), shot)
		part := partOfSave{File: file}
		if err != nil {
			part.Error = err.Error()
		}
		text, jsonErr := json.Marshal(part)
		return "", errors.Join(err, jsonErr, w.group.Store().Set(key(rank), text))
	}

	aside, err := w.aside(st.Step)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(aside) // what did not become the checkpoint
	if world > 1 {
		if err := w.group.Store().Set(key("folder"), []byte(aside)); err != nil {
			return "", err
		}
	}
	if err := w.writeWeights(aside, shot, info, &st); err != nil {
		return "", err
	}
	file, err := w.writeOptimizer(aside, shot)
	if err != nil {
		return "", err
	}
	st.Files = append(st.Files, file)
	for other := 1; other < world; other++ {
		file, err := w.partOf(ctx, aside, key(other), other)
		if err != nil {
			return "", err
		}
		st.Files = append(st.Files, file)
	}
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return "", err
	}
	err = disk.WriteFile(filepath.Join(aside, stateFile), func(out io.Writer) error {
		_, err := out.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return "", err
	}
	name := stepName(st.Step)
	path = filepath.Join(w.dir, name)
	if err := publish(aside, path); err != nil {
		return "", err
	}
	if err := link(name, filepath.Join(w.dir, latestLink)); err != nil {
		return "", err
	}
	return path, w.retire(st.Step)
}

// aside makes the folder in which a checkpoint is written.
func (w *saver) aside(step int) (string, error) {
	if err := os.MkdirAll(w.dir, 0o777); err != nil {
		return "", err
	}
	// What a run that was killed left: a checkpoint of a large model takes gigabytes.
	stale, _ := filepath.Glob(filepath.Join(w.dir, ".*"+asideMark+"*"))
	for _, path := range stale {
		os.RemoveAll(path)
	}
	aside, err := os.MkdirTemp(w.dir, "."+stepName(step)+asideMark)
	if err != nil {
		return "", err
	}
	return aside, os.Chmod(aside, 0o777)
}

func (w *saver) writeWeights(dir string, shot *optim.Snapshot, info dit.Info, st *state) error {
	for _, f := range []struct {
		name    string
		weights []checkpoint.Tensor
	}{{modelFile, shot.Weights()}, {emaFile, shot.Averages()}} {
		info.EMA = f.name == emaFile
		if err := dit.Save(filepath.Join(dir, f.name), f.weights, info); err != nil {
			return err
		}
		file, err := describeFile(dir, f.name)
		if err != nil {
			return err
		}
		st.Files = append(st.Files, file)
	}
	return nil
}

func (w *saver) writeOptimizer(dir string, shot *optim.Snapshot) (savedFile, error) {
	name := optimizerFile(w.group.Rank(), w.group.World())
	tensors, meta := shot.Optimizer()
	if err := checkpoint.Write(filepath.Join(dir, name), tensors, meta); err != nil {
		return savedFile{}, err
	}
	return describeFile(dir, name)
}

// partOfSave is what a process tells rank 0 of the file it wrote.
type partOfSave struct {
	File  savedFile `json:"file"`
	Error string    `json:"error,omitempty"`
}

// partOf waits until another process has written its file.
func (w *saver) partOf(ctx context.Context, dir, key string, rank int) (savedFile, error) {
	text, err := w.group.Store().Get(ctx, key)
	if err != nil {
		return savedFile{}, fmt.Errorf("rank %d has not written its part: %w", rank, err)
	}
	var part partOfSave
	if err := json.Unmarshal(text, &part); err != nil {
		return savedFile{}, fmt.Errorf("rank %d: %w", rank, err)
	}
	if part.Error != "" {
		return savedFile{}, fmt.Errorf("rank %d: %s", rank, part.Error)
	}
	info, err := os.Stat(filepath.Join(dir, part.File.File))
	if err != nil || info.Size() != part.File.Bytes {
		return savedFile{}, fmt.Errorf("%s: rank %d has written it, but it is not here: the run folder must lie on a file system that all machines share", part.File.File, rank)
	}
	return part.File, w.group.Store().Delete(key)
}

// retire removes checkpoints that the retention rule does not keep, those of later steps left alone: of a run that was
// continued from an earlier one.
func (w *saver) retire(last int) error {
	if w.keepLast == 0 {
		return nil
	}
	steps, err := checkpoints(w.dir)
	if err != nil {
		return err
	}
	kept := 0
	for i := len(steps) - 1; i >= 0; i-- {
		step := steps[i]
		if step > last {
			continue
		}
		if kept < w.keepLast || w.keepEvery > 0 && step%w.keepEvery == 0 {
			kept++
			continue
		}
		// Renamed first, so that no half of one looks like a checkpoint.
		aside := filepath.Join(w.dir, "."+stepName(step)+asideMark+"old")
		if err := os.Rename(filepath.Join(w.dir, stepName(step)), aside); err != nil {
			return err
		}
		if err := os.RemoveAll(aside); err != nil {
			return err
		}
	}
	return nil
}

// publish renames aside to path; a folder of an earlier attempt at the same step trades places with
// it, so that at every moment a whole one stands at path.
func publish(aside, path string) error {
	if err := os.Chmod(aside, 0o755); err != nil {
		return err
	}
	err := os.Rename(aside, path)
	if errors.Is(err, fs.ErrExist) {
		err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(path))
}

// link makes the symbolic link at path refer to name, replacing another at once.
func link(name, path string) error {
	aside := path + ".tmp"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(name, aside); err != nil {
		return err
	}
	if err := os.Rename(aside, path); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(path))
}
