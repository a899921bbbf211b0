package training

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/optim"
)

// saveTimeout is how long a process waits for the others to write their part of a checkpoint.
const saveTimeout = 30 * time.Minute

// A saver writes checkpoints while training goes on, one at a time. Every process writes its part of the optimizer,
// rank 0 the weights too; it alone publishes: aside, synced, renamed, `latest` last. Killed at any moment it leaves
// the checkpoints before it as they were.
type saver struct {
	dir                 string
	group               *dist.Group
	keepLast, keepEvery int
	pauses              []time.Duration               // between the tries to write a file
	fault               func(what string) (err error) // for tests: fails as a file system does

	saves   int            // begun, the same on all processes
	pending chan savedNews // nil when none is under way
	cancel  context.CancelFunc
	ctx     context.Context
}

// savedNews is how a save ended. All processes learn the same from rank 0, but for the path.
type savedNews struct {
	Step      int    `json:"step"`
	Error     string `json:"error,omitempty"`
	Momentary bool   `json:"momentary,omitempty"` // the error may be gone at the next try
	path      string
	notes     []string // what could not be tidied up
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

// write writes this process's part of a checkpoint and, on rank 0, makes it one.
func (w *saver) write(number int, shot *optim.Snapshot, st state, info dit.Info) savedNews {
	ctx, cancel := context.WithTimeout(w.ctx, saveTimeout)
	defer cancel()
	key := func(what any) string { return fmt.Sprintf("save/%d/%v", number, what) }
	news := savedNews{Step: st.Step}
	fail := func(err error) savedNews {
		news.Error = fmt.Sprintf("save checkpoint of step %d: %v", st.Step, err)
		news.Momentary = disk.Momentary(err)
		return news
	}
	if w.group.Rank() > 0 {
		if err := w.writePart(ctx, key, shot); err != nil {
			return fail(err)
		}
		text, err := w.group.Store().Get(ctx, key("news"))
		if err == nil {
			err = json.Unmarshal(text, &news)
		}
		if err != nil {
			return fail(err)
		}
		return news
	}
	if path, err := w.writeAll(ctx, key, shot, st, info); err != nil {
		fail(err)
	} else {
		news.path, news.notes = path, w.tidy(st.Step)
	}
	if w.group.World() > 1 {
		text, err := json.Marshal(news)
		if err == nil {
			err = w.group.Store().Set(key("news"), text)
		}
		if err != nil {
			return fail(err)
		}
	}
	return news
}

// writePart writes what a process of rank above 0 keeps of the optimizer into the folder that rank 0 names.
func (w *saver) writePart(ctx context.Context, key func(any) string, shot *optim.Snapshot) error {
	folder, err := w.group.Store().Get(ctx, key("folder"))
	if err != nil || len(folder) == 0 { // rank 0 could make none, and says why
		return err
	}
	var part partOfSave
	if part.File, err = w.writeOptimizer(string(folder), shot); err != nil {
		part.Error, part.Momentary = err.Error(), disk.Momentary(err)
	}
	text, err := json.Marshal(part)
	return errors.Join(err, w.group.Store().Set(key(w.group.Rank()), text))
}

// writeAll writes the checkpoint on rank 0, with the parts of the others.
func (w *saver) writeAll(ctx context.Context, key func(any) string, shot *optim.Snapshot, st state,
	info dit.Info) (path string, err error) {
	told := w.group.World() == 1
	tell := func(folder string) error {
		if told {
			return nil
		}
		told = true
		return w.group.Store().Set(key("folder"), []byte(folder))
	}
	defer func() { err = errors.Join(err, tell("")) }()
	if err := w.trying("folder", func() error { return os.MkdirAll(w.dir, 0o777) }); err != nil {
		return "", err
	}
	// What a run that was killed left: a checkpoint of a large model takes gigabytes.
	disk.SweepFolder(w.dir)
	name := saves.StepName(st.Step)
	path = filepath.Join(w.dir, name)
	err = disk.ReplaceFolder(path, func(dir string) error {
		if err := tell(dir); err != nil {
			return err
		}
		if err := w.writeWeights(dir, shot, info, &st); err != nil {
			return err
		}
		file, err := w.writeOptimizer(dir, shot)
		if err != nil {
			return err
		}
		st.Files = append(st.Files, file)
		for other := 1; other < w.group.World(); other++ {
			file, err := w.partOf(ctx, dir, key(other), other)
			if err != nil {
				return err
			}
			st.Files = append(st.Files, file)
		}
		text, err := st.text()
		if err != nil {
			return err
		}
		return w.trying(saves.StateName,
			func() error { return disk.WriteBytes(filepath.Join(dir, saves.StateName), text) })
	})
	if err != nil {
		return "", err
	}
	return path, nil
}

// tidy makes `latest` refer to the checkpoint of step and removes those that are not kept. It says in words what it
// could not do: the checkpoint is there all the same.
func (w *saver) tidy(step int) (notes []string) {
	err := w.trying(saves.LatestName, func() error { return saves.SetLatest(w.dir, step) })
	if err != nil {
		notes = append(notes, fmt.Sprintf("%v: the checkpoint of step %d is whole, and found without it", err, step))
	}
	if err := w.retire(step); err != nil {
		notes = append(notes, fmt.Sprintf("remove old checkpoints: %v", err))
	}
	return notes
}

// trying makes a call to the file system, and again a little later where that may help.
func (w *saver) trying(what string, f func() error) error {
	return disk.Retry(w.ctx, w.pauses, func() error {
		if w.fault != nil {
			if err := w.fault(what); err != nil {
				return err
			}
		}
		return f()
	})
}

func (w *saver) writeWeights(dir string, shot *optim.Snapshot, info dit.Info, st *state) error {
	for _, f := range []struct {
		name    string
		weights []checkpoint.Tensor
	}{{saves.ModelName, shot.Weights()}, {saves.EMAName, shot.Averages()}} {
		info.EMA = f.name == saves.EMAName
		file, err := w.writeFile(dir, f.name, func(path string) error { return dit.Save(path, f.weights, info) })
		if err != nil {
			return err
		}
		st.Files = append(st.Files, file)
	}
	return nil
}

func (w *saver) writeOptimizer(dir string, shot *optim.Snapshot) (saves.File, error) {
	name := saves.OptimizerName(w.group.Rank(), w.group.World())
	tensors, meta := shot.Optimizer()
	return w.writeFile(dir, name, func(path string) error { return checkpoint.Write(path, tensors, meta) })
}

// writeFile writes a file of a checkpoint and reads it for its checksum.
func (w *saver) writeFile(dir, name string, write func(path string) error) (file saves.File, err error) {
	err = w.trying(name, func() error {
		if err := write(filepath.Join(dir, name)); err != nil {
			return err
		}
		file, err = saves.Describe(dir, name)
		return err
	})
	return file, err
}

// momentary is an error of another process that may be gone at the next try.
type momentary struct{ error }

func (momentary) Is(target error) bool { return target == syscall.EAGAIN }

// partOfSave is what a process tells rank 0 of the file it wrote.
type partOfSave struct {
	File      saves.File `json:"file"`
	Error     string     `json:"error,omitempty"`
	Momentary bool       `json:"momentary,omitempty"`
}

// partOf waits until another process has written its file.
func (w *saver) partOf(ctx context.Context, dir, key string, rank int) (saves.File, error) {
	text, err := w.group.Store().Get(ctx, key)
	if err != nil {
		return saves.File{}, fmt.Errorf("rank %d has not written its part: %w", rank, err)
	}
	var part partOfSave
	if err := json.Unmarshal(text, &part); err != nil {
		return saves.File{}, fmt.Errorf("rank %d: %w", rank, err)
	}
	if part.Error != "" {
		err := fmt.Errorf("rank %d: %s", rank, part.Error)
		if part.Momentary {
			err = momentary{err}
		}
		return saves.File{}, err
	}
	info, err := os.Stat(filepath.Join(dir, part.File.Name))
	if err != nil || info.Size() != part.File.Bytes {
		return saves.File{}, fmt.Errorf("%s: rank %d has written it, but it is not here: the run folder must be on "+
			"a file system that all machines share", part.File.Name, rank)
	}
	return part.File, w.group.Store().Delete(key)
}

// retire removes checkpoints that the retention rule does not keep, those of later steps left alone: of a run that was
// continued from an earlier one.
func (w *saver) retire(last int) error {
	if w.keepLast == 0 {
		return nil
	}
	steps, err := saves.Steps(w.dir)
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
		if err := disk.RemoveFolder(filepath.Join(w.dir, saves.StepName(step))); err != nil {
			return err
		}
	}
	return nil
}
