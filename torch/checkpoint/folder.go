package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ditrun/ditrun/internal/disk"
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

// StepName is the folder of the checkpoint after so many steps.
func StepName(step int) string { return fmt.Sprintf("%07d", step) }

var stepName = regexp.MustCompile(`^\d{7,}$`)

// Steps are the steps of the checkpoints in dir, whole or not, in order.
func Steps(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var steps []int
	for _, e := range entries {
		if e.IsDir() && stepName.MatchString(e.Name()) {
			if step, err := strconv.Atoi(e.Name()); err == nil {
				steps = append(steps, step)
			}
		}
	}
	slices.Sort(steps)
	return steps, nil
}

// A Saved is a file as it was written.
type Saved struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Describe reads a file that was just written.
func Describe(dir, name string) (Saved, error) {
	f := Saved{File: name}
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		return f, err
	}
	f.Bytes = info.Size()
	f.SHA256, err = disk.SHA256(filepath.Join(dir, name))
	return f, err
}

// Present returns an error unless the file is in dir with the size that it was written with.
func (s Saved) Present(dir string) error {
	info, err := os.Stat(filepath.Join(dir, s.File))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: missing", s.File)
	case err != nil:
		return fmt.Errorf("%s: %w", s.File, disk.Bare(err))
	case info.Size() != s.Bytes:
		return fmt.Errorf("%s: %d bytes, %d when it was written: cut short or damaged", s.File, info.Size(), s.Bytes)
	}
	return nil
}

// Whole reads the file in dir and returns an error unless it has the checksum that it was written with.
func (s Saved) Whole(dir string) error {
	if err := s.Present(dir); err != nil {
		return err
	}
	sum, err := disk.SHA256(filepath.Join(dir, s.File))
	if err != nil {
		return fmt.Errorf("%s: %w", s.File, disk.Bare(err))
	}
	if sum != s.SHA256 {
		return fmt.Errorf("%s: sha256 %.12s..., %.12s... when it was written: damaged", s.File, sum, s.SHA256)
	}
	return nil
}

// A Folder is a checkpoint of a training run, as its state.json describes it.
type Folder struct {
	Dir   string  `json:"-"`
	Step  int     `json:"step"`
	World int     `json:"world_size"` // processes, each of which keeps a part of the optimizer's state
	Files []Saved `json:"files"`      // all but state.json

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
		return fmt.Errorf("lists %d files, want %d for %d processes", len(f.Files), len(want), f.World)
	}
	for i, file := range f.Files {
		// The name is compared, not used: a path in it would lead out of the folder.
		if file.File != want[i] {
			return fmt.Errorf("file %d is called %q, want %q", i, file.File, want[i])
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

// WayOut says what to do where the checkpoint is damaged, such as to take an older one that is beside it.
func (f *Folder) WayOut() string { return olderThan(f.Dir) }

// Newest returns the newest whole checkpoint of those in dir, "" if there is none, and what is wrong with newer ones.
func Newest(dir string) (path string, damaged []error, err error) {
	return newest(dir, (*Folder).Whole)
}

func newest(dir string, check func(*Folder) error) (path string, damaged []error, err error) {
	steps, err := Steps(dir)
	if err != nil {
		return "", nil, err
	}
	for _, step := range slices.Backward(steps) {
		path := filepath.Join(dir, StepName(step))
		f, err := ReadFolder(path)
		if err == nil {
			err = check(f)
		}
		if err == nil {
			return path, damaged, nil
		}
		// One that cannot be read for want of descriptors or permission may be whole. A bad sector stays.
		if disk.OfMachine(err) && !errors.Is(err, syscall.EIO) {
			return "", damaged, fmt.Errorf("%s: %w", path, err)
		}
		damaged = append(damaged, fmt.Errorf("%s: %w", path, err))
	}
	return "", damaged, nil
}

// Latest finds the checkpoint that a reader of dir, such as RUN/checkpoints, wants: that which the link `latest` names.
// Where there is no such link, or it leads nowhere, that is the newest whose files all have their sizes, and note says
// which was taken and why. The error is fs.ErrNotExist where there is none.
func Latest(dir string) (path, note string, err error) {
	link := filepath.Join(dir, LatestName)
	problem, named := "", 0 // what is wrong with it, and the step that it stands for all the same
	info, err := os.Lstat(link)
	switch {
	case err != nil:
		problem = "there is no " + LatestName
	case info.Mode()&fs.ModeSymlink != 0:
		if isFolder(link) { // if it is not whole, that is for whoever reads it to say
			return link, "", nil
		}
		target, _ := os.Readlink(link)
		problem = fmt.Sprintf("%s leads to %s, where nothing is", LatestName, target)
	case info.IsDir():
		problem = LatestName + " is a folder, not a link"
		if f, err := ReadFolder(link); err == nil {
			named = f.Step
		}
	default:
		problem = LatestName + " is a file, not a link"
		if text, err := os.ReadFile(link); err == nil && info.Size() < 64 {
			named, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
	}
	path, _, err = newest(dir, (*Folder).Present)
	switch {
	case err != nil:
		return "", "", err
	case path == "" && isFolder(link):
		return link, "", nil
	case path == "":
		return "", "", fmt.Errorf("no checkpoint in %s: %w", dir, fs.ErrNotExist)
	case filepath.Base(path) == StepName(named):
		return path, "", nil
	}
	return path, fmt.Sprintf("%s is taken, the newest checkpoint that is whole: %s", path, problem), nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
