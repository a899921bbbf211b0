package saves

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/internal/disk"
)

// A File is a file of a save as it was when it was written.
type File struct {
	Name   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Write writes the file called name in dir as [disk.WriteFile] does, and describes it by the bytes on their way.
func Write(dir, name string, write func(io.Writer) error) (File, error) {
	f := File{Name: name}
	err := disk.WriteFile(filepath.Join(dir, name), func(w io.Writer) error {
		sum := sha256.New()
		count := &disk.Counter{W: io.MultiWriter(w, sum)}
		if err := write(count); err != nil {
			return err
		}
		f.Bytes, f.SHA256 = count.N, hex.EncodeToString(sum.Sum(nil))
		return nil
	})
	return f, err
}

// Describe describes a file that was just written, by reading it again.
func Describe(dir, name string) (File, error) {
	f := File{Name: name}
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		return f, err
	}
	f.Bytes = info.Size()
	f.SHA256, err = disk.SHA256(filepath.Join(dir, name))
	return f, err
}

// Present returns an error unless the file is in dir with the size that it was written with.
func (f File) Present(dir string) error {
	info, err := os.Stat(filepath.Join(dir, f.Name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: missing", f.Name)
	case err != nil:
		return fmt.Errorf("%s: %w", f.Name, disk.Bare(err))
	case info.Size() != f.Bytes:
		return fmt.Errorf("%s: %d bytes, %d when it was written: cut short or damaged", f.Name, info.Size(), f.Bytes)
	}
	return nil
}

// Whole reads the file in dir and returns an error unless it has the checksum that it was written with.
func (f File) Whole(dir string) error {
	if err := f.Present(dir); err != nil {
		return err
	}
	sum, err := disk.SHA256(filepath.Join(dir, f.Name))
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name, disk.Bare(err))
	}
	if sum != f.SHA256 {
		return fmt.Errorf("%s: sha256 %.12s..., %.12s... when it was written: damaged", f.Name, sum, f.SHA256)
	}
	return nil
}
