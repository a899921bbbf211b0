// Package mmap maps files for reading, and makes errors of what would end the program while they are read.
package mmap

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
)

// Map maps a file of the given size for reading. The caller unmaps it.
func Map(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if int64(int(size)) != size || size < 1 {
		return nil, fmt.Errorf("map %s: %d bytes", path, size)
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return b, nil
}

// Unmap ends what [Map] began; nil is nothing.
func Unmap(b []byte) error {
	if b == nil {
		return nil
	}
	return syscall.Munmap(b)
}

var errFault = errors.New("read failed: the file was cut short or the disk has an error")

// Explain says of an error of [Guard] which of the two it was, of a file that had size bytes. An error of the disk
// may pass.
func Explain(err error, path string, size int64) error {
	if !errors.Is(err, errFault) {
		return err
	}
	if info, statErr := os.Stat(path); statErr == nil && info.Size() < size {
		return fmt.Errorf("the file was cut short to %d bytes, from %d", info.Size(), size)
	}
	return fmt.Errorf("read failed: %w", syscall.EIO)
}

// Guard calls f, which reads mapped files. A file that another process cuts short, or a disk that fails, raises
// a signal at the read; without this it would end the program.
func Guard(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			// an address below is of a nil pointer, a mistake of ours
			if f, ok := r.(interface{ Addr() uintptr }); ok && f.Addr() >= 4096 {
				err = errFault
				return
			}
			panic(r)
		}
	}()
	return f()
}
