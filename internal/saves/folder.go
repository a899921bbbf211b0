package saves

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// The files of a checkpoint of a training run, a folder such as RUN/checkpoints/0050000.
const (
	ModelName  = "model.safetensors" // the weights that are trained
	EMAName    = "ema.safetensors"   // their averages, which are sampled from
	StateName  = "state.json"        // the run's state, and the checksums of all other files
	LatestName = "latest"            // beside the folders: a link to the last that was written
)

// OptimizerName is the file of the optimizer's state that one of world processes keeps.
func OptimizerName(rank, world int) string {
	return fmt.Sprintf("optimizer-%03d-of-%03d.safetensors", rank, world)
}

// A Folder is a checkpoint of a training run, as its state.json describes it.
type Folder struct {
	Dir   string `json:"-"`
	Step  int    `json:"step"`
	World int    `json:"world_size"` // processes, each of which keeps a part of the optimizer's state
	Files []File `json:"files"`      // all but state.json

	State []byte `json:"-"` // the text of state.json
}

// Limits on what is read of a state.json that may not be one.
const (
	maxState = 16 << 20
	maxWorld = 1 << 16
)

// ReadFolder reads state.json in dir, which may be the link `latest`, and compares it with its own checksum, the list
// of files with what a run of so many processes has, and the step with the name of the folder. Where there is no
// state.json the error is fs.ErrNotExist.
func ReadFolder(dir string) (*Folder, error) {
	text, err := readState(dir)
	if err != nil {
		return nil, err
	}
	f := &Folder{Dir: dir, State: text}
	if err := f.parse(); err != nil {
		return nil, fmt.Errorf("%s: %w", StateName, err)
	}
	return f, nil
}

func readState(dir string) ([]byte, error) {
	path := filepath.Join(dir, StateName)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", StateName, disk.Bare(err))
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("%s: %d bytes: want at most %d", StateName, info.Size(), maxState)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", StateName, disk.Bare(err))
	}
	return text, nil
}

func (f *Folder) parse() error {
	if err := json.Unmarshal(f.State, f); err != nil {
		return err
	}
	switch {
	case f.Step < 1:
		return fmt.Errorf("step %d: want at least 1", f.Step)
	case f.World < 1 || f.World > maxWorld:
		return fmt.Errorf("world size %d: want 1 to %d", f.World, maxWorld)
	}
	want := f.names()
	if len(f.Files) != len(want) {
		return fmt.Errorf("lists %s, want %d for %s", names.Plural(len(f.Files), "file"), len(want),
			names.Plural(f.World, "process"))
	}
	for i, file := range f.Files {
		// The name is compared, not used: a path in it would lead out of the folder.
		if file.Name != want[i] {
			return fmt.Errorf("file %d is called %q, want %q", i, file.Name, want[i])
		}
	}
	if err := disk.CheckSeal(f.State); err != nil {
		return err
	}
	if name := f.name(); name != "" && name != StepName(f.Step) {
		return fmt.Errorf("it is of step %d, in the folder of step %s: damaged, or the folder was renamed", f.Step,
			strings.TrimLeft(name, "0"))
	}
	return nil
}

// names are the files that the checkpoint of a run of so many processes has.
func (f *Folder) names() []string {
	names := []string{ModelName, EMAName}
	for rank := range f.World {
		names = append(names, OptimizerName(rank, f.World))
	}
	return names
}

// name is the name of the folder itself, links followed; "" where it is not that of a step.
func (f *Folder) name() string {
	dir, err := filepath.EvalSymlinks(f.Dir)
	if err != nil {
		return ""
	}
	if dir, err = filepath.Abs(dir); err != nil || !stepName.MatchString(filepath.Base(dir)) {
		return ""
	}
	return filepath.Base(dir)
}

// Present returns an error unless all files are there with the size that they were written with.
func (f *Folder) Present() error {
	for _, file := range f.Files {
		if err := file.Present(f.Dir); err != nil {
			return err
		}
	}
	return nil
}

// Whole reads all files and returns an error unless they have the checksums that they were written with.
func (f *Folder) Whole() error {
	if err := f.Present(); err != nil {
		return err
	}
	for _, file := range f.Files {
		if err := file.Whole(f.Dir); err != nil {
			return err
		}
	}
	return nil
}

// Advice says what to do where the checkpoint is damaged, such as to take an older one that is beside it.
func (f *Folder) Advice() string { return olderThan(f.Dir) }
