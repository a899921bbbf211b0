package disk

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// noLocks says whether the file system has no locks: NFS and Lustre mounted without them, some FUSE file systems.
func noLocks(err error) bool {
	return errors.Is(err, syscall.ENOLCK) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) ||
		errors.Is(err, syscall.EINVAL)
}

// momentary are the errors that may be gone at the next try: a disk that is cleared, a server that comes back, other
// programs that close their files.
var momentary = []error{
	syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR,
	syscall.EAGAIN,
	syscall.ESTALE, syscall.ETIMEDOUT, syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
	syscall.EREMOTEIO,
}

// Momentary reports whether the same call may succeed a little later.
func Momentary(err error) bool { return isOneOf(err, momentary) }

// standing are errors of the machine that stay until somebody changes it: who may do what, limits, what is mounted how.
var standing = []error{syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.EFBIG, syscall.ENODEV, syscall.ENXIO}

// OfMachine reports whether err comes of the machine, its limits and who may do what on it, and so says nothing of
// what a file holds.
func OfMachine(err error) bool { return isOneOf(err, momentary) || isOneOf(err, standing) }

func isOneOf(err error, list []error) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Advise adds to an error of reading a file what to do about the file, unless the file is not at fault.
func Advise(err error, advice string) error {
	if err == nil || OfMachine(err) {
		return err
	}
	return fmt.Errorf("%w: %s", err, advice)
}

// Pauses are what writers of work that took long give [Retry]: a disk that is full, or a server that restarts, may be
// back within seconds.
func Pauses() []time.Duration { return []time.Duration{time.Second, 3 * time.Second, 10 * time.Second} }

// Retry calls f until it succeeds, its error is not momentary, or all pauses have passed, with one of them before
// each new try. It returns the last error; when ctx ends it makes no further try.
func Retry(ctx context.Context, pauses []time.Duration, f func() error) error {
	err := f()
	for _, pause := range pauses {
		if err == nil || !Momentary(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		err = f()
	}
	return err
}
