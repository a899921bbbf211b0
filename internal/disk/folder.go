package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WriteFolder makes the folder path of what write puts into the folder it is given, or leaves path as it was. Files
// in it are synced by whoever writes them, as [WriteFile] does. A folder that stands at path must be empty.
func WriteFolder(path string, write func(dir string) error) error {
	return writeFolder(path, write, func(t *temporary, path string) error {
		err := place(t.path, path)
		if err == nil {
			t.done()
		}
		return err
	})
}

// ReplaceFolder is WriteFolder for a path where an older folder may stand: the new one takes its place, so that at
// every moment a whole one stands at path, and the old one is removed.
func ReplaceFolder(path string, write func(dir string) error) error {
	return writeFolder(path, write, func(t *temporary, path string) error {
		old, err := Exchange(t.path, path)
		if err != nil {
			return err
		}
		t.done()
		if old != "" {
			os.RemoveAll(old) // should this fail, Sweep comes back to it
		}
		return nil
	})
}

func writeFolder(path string, write func(dir string) error, put func(*temporary, string) error) error {
	path = filepath.Clean(path)
	fail := func(err error) error { return fmt.Errorf("write %s: %w", path, Bare(err)) }
	Sweep(path)
	t, err := newTemporary(path, func(name string) error { return os.Mkdir(name, 0o777) })
	if err != nil {
		return fail(err)
	}
	defer t.remove()
	if err := write(t.path); err != nil {
		return err
	}
	if err := SyncDir(t.path); err != nil {
		return fail(err)
	}
	if err := put(t, path); err != nil {
		return fail(err)
	}
	return SyncDir(filepath.Dir(path))
}

// RemoveFolder removes a folder so that no half of it ever has its name. What a killed process left of it is swept.
func RemoveFolder(path string) error {
	aside := temporaryFor(filepath.Clean(path))
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	return os.RemoveAll(aside)
}

// rename is that of the kernel: os.Rename refuses where path is a folder, even an empty one, whose place the kernel
// gives.
func rename(from, to string) error {
	if err := unix.Rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// place renames made to path, where at most an empty folder stands, or a file in the place of which a file is put.
func place(made, path string) error {
	err := rename(made, path)
	if errors.Is(err, fs.ErrExist) {
		return errors.New("the folder is not empty")
	}
	return err
}

// Exchange gives the folder made the name path and returns the name that an older folder there now has, "" without one.
func Exchange(made, path string) (old string, err error) {
	err = rename(made, path)
	if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if err = unix.Renameat2(unix.AT_FDCWD, made, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE); err == nil {
		return made, nil
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return "", err
	}
	// A file system that cannot exchange: for a moment there is nothing at path.
	old = path + ".old"
	if err := os.RemoveAll(old); err != nil {
		return "", err
	}
	if err := os.Rename(path, old); err != nil {
		return "", err
	}
	if err := os.Rename(made, path); err != nil {
		return "", errors.Join(err, os.Rename(old, path))
	}
	return old, nil
}
