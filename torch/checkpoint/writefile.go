package checkpoint

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile makes the file at path hold what write writes, or leaves path as it
// was: the bytes go to a new file in the same directory, which is synced to
// disk and then renamed onto path, and the directory is synced so that the name
// too survives a power cut. On any error, a panic of write included, the
// temporary file is removed; only a killed process leaves one, its name
// starting with a dot and ending in ".tmp".
//
// Small writes are buffered; large ones go to the file directly.
func WriteFile(path string, write func(io.Writer) error) error {
	if err := writeFile(path, write); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeFile(path string, write func(io.Writer) error) (err error) {
	dir, base := filepath.Split(path)
	if base == "" {
		return errors.New("path names no file")
	}
	if dir == "" {
		dir = "."
	}
	// The process id helps a reader of the directory, the random part keeps
	// apart processes of several machines on one network disk.
	tmp := filepath.Join(dir, fmt.Sprintf(".%s.%d-%s.tmp", base, os.Getpid(), rand.Text()[:8]))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return Bare(err)
	}
	done := false
	defer func() {
		if !done {
			f.Close()
			os.Remove(tmp)
		}
	}()
	w := bufio.NewWriterSize(bareWriter{f}, 1<<16)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return Bare(err)
	}
	if err := f.Close(); err != nil {
		return Bare(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return Bare(err)
	}
	done = true
	return SyncDir(dir)
}

// SHA256 returns the hex SHA-256 of the file at path.
func SHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// SyncDir makes the names in a directory durable, for a caller that renames a
// folder of its own into place. Some network and FUSE file systems cannot;
// there the rename is as durable as they make it.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return Bare(err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return Bare(err)
	}
	return nil
}

// bareWriter writes to a file, its errors without the file's name.
type bareWriter struct{ f *os.File }

func (w bareWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	return n, Bare(err)
}

// Bare drops the path from an error of the os package, for a caller whose message names the file that the user knows.
func Bare(err error) error {
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	if e := (*os.LinkError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}
