package disk

import (
	"bufio"
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
// was: the bytes go to a temporary file in the same directory, which is synced to
// disk and then renamed onto path, and the directory is synced so that the name
// too survives a power cut. On any error, a panic of write included, the
// temporary file is removed; only a killed process leaves one, for [Sweep].
//
// Small writes are buffered; large ones go to the file directly.
func WriteFile(path string, write func(io.Writer) error) error {
	if err := writeFile(path, write); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteBytes is WriteFile for content that is in memory.
func WriteBytes(path string, content []byte) error {
	return WriteFile(path, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

func writeFile(path string, write func(io.Writer) error) (err error) {
	dir, base := filepath.Split(path)
	if base == "" {
		return errors.New("path names no file")
	}
	if dir == "" {
		dir = "."
	}
	t, err := newTemporary(path, func(name string) error {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err != nil {
			return err
		}
		return f.Close()
	})
	if err != nil {
		return Bare(err)
	}
	defer t.remove() // does nothing after the rename
	f, err := os.OpenFile(t.path, os.O_WRONLY, 0)
	if err != nil {
		return Bare(err)
	}
	defer f.Close()
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
	if err := t.rename(path); err != nil {
		return Bare(err)
	}
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

// SyncDir makes the names in a directory durable. Some network and FUSE file
// systems cannot; there a rename is as durable as they make it.
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

// A Counter passes bytes on to W and counts them.
type Counter struct {
	W io.Writer
	N int64
}

// Write implements [io.Writer].
func (c *Counter) Write(p []byte) (int, error) {
	n, err := c.W.Write(p)
	c.N += int64(n)
	return n, err
}
