package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Try returns the error that whoever writes the file or folder at path would meet, where it can be known before: a
// folder that is missing or read-only, a disk that is full to the last byte. It leaves nothing.
func Try(path string) error {
	path = filepath.Clean(path)
	t, err := newTemporary(path, func(name string) error { return os.WriteFile(name, []byte{0}, 0o666) })
	if err == nil {
		err = t.remove()
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: Bare(err)}
	}
	return nil
}

// TryFolder returns the error that whoever makes the folder at path, with those above it, and writes into it would
// meet, where it can be known before. It leaves nothing.
func TryFolder(path string) error {
	path = filepath.Clean(path)
	dir := Existing(path)
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return &fs.PathError{Op: "write", Path: dir, Err: syscall.ENOTDIR}
	}
	err := Try(filepath.Join(dir, "folder"))
	if err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: Bare(err)}
	}
	return nil
}

// What [FitsFolder] refuses.
var (
	ErrIsFile   = errors.New("exists and is not a folder")
	ErrNotEmpty = errors.New("the folder is not empty")
)

// FitsFile refuses the path of a file to be written whose folder is missing, or where a folder stands.
func FitsFile(path string) error {
	if err := isIn(path); err != nil {
		return err
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return errors.New("is a folder, want a file")
	}
	return nil
}

// FitsFolder refuses the path of a folder to be made in one that is missing, or where something stands that is not an
// empty folder.
func FitsFolder(path string) error {
	if err := isIn(path); err != nil {
		return err
	}
	switch entries, err := os.ReadDir(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return ErrIsFile
	case len(entries) > 0:
		return ErrNotEmpty
	}
	return nil
}

// isIn wants the folder that path is in.
func isIn(path string) error {
	if st, err := os.Stat(filepath.Dir(path)); err != nil || !st.IsDir() {
		return fmt.Errorf("the folder %s does not exist", filepath.Dir(path))
	}
	return nil
}

// Existing returns path, or the innermost folder above it that can be looked at.
func Existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// Free returns the bytes that a user may still write to the disk of path, which need not be there yet. It is -1 where
// that is not known: some file systems do not say.
func Free(path string) int64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(Existing(path), &st); err != nil || st.Bsize <= 0 || st.Blocks == 0 {
		return -1
	}
	return int64(min(st.Bavail, 1<<62/uint64(st.Bsize))) * st.Bsize
}

// Place gives a file or folder that was made beside path, and is synced, its name. A folder that stands at path must be
// empty; a file is replaced.
func Place(made, path string) error {
	path = filepath.Clean(path)
	err := place(made, path)
	if err == nil {
		err = SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, Bare(err))
	}
	return nil
}
