package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// ErrLocked says that another process, or another holder in this one, has the lock.
var ErrLocked = errors.New("locked by another process")

// A Lock is held until it is given up; the kernel gives up that of a process that dies.
type Lock struct {
	f    *flock.Flock
	path string
	held bool
}

// TryLock takes the lock that the file at path stands for, and makes the file where it is missing. Its error is
// [ErrLocked] if somebody else has it. On a file system without locks it succeeds, and Held says that nothing is
// locked.
func TryLock(path string) (*Lock, error) { return tryLock(path, os.O_CREATE|os.O_RDWR) }

// TryShare takes a lock on the file at path, which must be there, that any number of holders share; as long as there
// is one of them nobody gets the lock by TryLock.
func TryShare(path string) (*Lock, error) {
	return tryFlock(path, os.O_RDONLY, (*flock.Flock).TryRLock)
}

func tryLock(path string, flag int) (*Lock, error) {
	return tryFlock(path, flag, (*flock.Flock).TryLock)
}

func tryFlock(path string, flag int, try func(*flock.Flock) (bool, error)) (*Lock, error) {
	for {
		l := &Lock{f: flock.New(path, flock.SetFlag(flag), flock.SetPermissions(0o666)), path: path}
		ok, err := try(l.f)
		switch {
		case err != nil && (errors.Is(err, errors.ErrUnsupported) || noLocks(err)):
			if _, err := os.Stat(path); err != nil {
				return nil, err
			}
			return l, nil
		case err != nil:
			l.f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, Bare(err))
		case !ok:
			l.f.Close()
			return nil, ErrLocked
		}
		// A holder may remove the file when done. One that was removed between open and lock guards nothing any more.
		have, err1 := l.f.Stat()
		now, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(have, now) {
			l.held = true
			return l, nil
		}
		l.f.Close()
		if flag&os.O_CREATE == 0 {
			return nil, fs.ErrNotExist
		}
	}
}

// pollEvery is how often one who waits for a lock looks again.
const pollEvery = 100 * time.Millisecond

// WaitLock is TryLock that waits until the lock is free or ctx ends.
func WaitLock(ctx context.Context, path string) (*Lock, error) {
	for {
		l, err := TryLock(path)
		if !errors.Is(err, ErrLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pollEvery):
		}
	}
}

// Held says whether others are kept out, which a file system without locks does not do.
func (l *Lock) Held() bool { return l.held }

// Unlock gives the lock up; the file stays. A lock that was given up stays so.
func (l *Lock) Unlock() error { return l.f.Close() }

// Remove gives the lock up and removes its file.
func (l *Lock) Remove() {
	os.Remove(l.path)
	l.f.Close()
}
