package disk

import (
	"fmt"
	"os"
	"path/filepath"
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
		return fmt.Errorf("write %s: %w", path, Bare(err))
	}
	return nil
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
