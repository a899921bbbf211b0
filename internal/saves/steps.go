package saves

import (
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

// StepName is the name of the folder of the checkpoint after so many steps.
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
	return path, fmt.Sprintf("using %s, the newest whole checkpoint: %s", path, problem), nil
}

// SetLatest makes the link `latest` in dir lead to the checkpoint of a step, in the place of another at once. On a file
// system without symbolic links it becomes a text file that holds the name.
func SetLatest(dir string, step int) error {
	path := filepath.Join(dir, LatestName)
	aside := path + ".tmp"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Symlink(StepName(step), aside)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		return disk.WriteBytes(path, []byte(StepName(step)+"\n"))
	}
	if err != nil {
		return err
	}
	if err := os.Rename(aside, path); err != nil {
		os.Remove(aside)
		return err
	}
	return disk.SyncDir(dir)
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
