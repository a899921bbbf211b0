package disk

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// A temporary is a file or folder under a name that nobody looks for, locked as long as it has that name.
type temporary struct {
	path string
	lock *Lock
}

// temporaryName matches ".BASE" and what [newTemporary] adds; the digits alone and the first form are of older
// versions.
var temporaryName = regexp.MustCompile(`^\.(.+)\.(?:tmp-(?:\d+|old)|(?:\d+|\d+-[A-Z2-7]+)\.tmp)$`)

// temporaryFor names a temporary for path. The process id helps a reader of the directory, the random part keeps apart
// processes of several machines on one network disk.
func temporaryFor(path string) string {
	dir, base := filepath.Split(path)
	return filepath.Join(dir, fmt.Sprintf(".%s.%d-%s.tmp", base, os.Getpid(), rand.Text()[:8]))
}

// newTemporary makes a temporary for path. Create makes what has the name.
func newTemporary(path string, create func(name string) error) (*temporary, error) {
	for {
		name := temporaryFor(path)
		if err := create(name); err != nil {
			return nil, err
		}
		lock, err := tryLock(name, os.O_RDONLY)
		switch {
		case err == nil:
			return &temporary{name, lock}, nil
		// A sweep that came between has the lock, and removes what it took for a leftover.
		case errors.Is(err, ErrLocked), errors.Is(err, fs.ErrNotExist):
			continue
		}
		os.RemoveAll(name)
		return nil, err
	}
}

// rename gives the temporary its name.
func (t *temporary) rename(path string) error {
	err := rename(t.path, path)
	if err == nil {
		t.done()
	}
	return err
}

// done gives the lock up: what the temporary held has its name.
func (t *temporary) done() {
	t.lock.Unlock()
	t.path = ""
}

// remove removes a temporary that did not get its name.
func (t *temporary) remove() error {
	if t.path == "" {
		return nil
	}
	err := os.RemoveAll(t.path)
	t.done()
	return err
}

// Sweep removes what killed processes left of the file or folder at path. Without locks on the file system it
// cannot know who is alive, and removes nothing. That something cannot be removed is no error: it is in nobody's
// way.
func Sweep(path string) {
	dir, base := filepath.Split(path)
	sweep(dir, func(of string) bool { return of == base })
}

// SweepFolder removes what killed processes left of all files and folders in dir.
func SweepFolder(dir string) { sweep(dir, func(string) bool { return true }) }

func sweep(dir string, which func(of string) bool) {
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		m := temporaryName.FindStringSubmatch(e.Name())
		if m == nil || !which(m[1]) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if !e.IsDir() && !e.Type().IsRegular() {
			continue
		}
		if lock, err := tryLock(path, os.O_RDONLY); err == nil {
			if lock.Held() {
				os.RemoveAll(path)
			}
			lock.Unlock()
		}
	}
}

// IsTemporary says whether a file or folder of this name is being written, or was when its process was killed.
func IsTemporary(name string) bool { return temporaryName.MatchString(name) }
