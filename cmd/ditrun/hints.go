package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/internal/disk"
)

// A hintError is an error with the next step to take.
type hintError struct {
	error
	hint string
	kept bool // the hint says what is left of the work, which is true whatever the cause
}

func (e hintError) Unwrap() error { return e.error }

// withHint adds a hint to err; it is printed on a line of its own, unless the
// cause of err has a hint of its own. An err of nil stays nil.
func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hintError{err, fmt.Sprintf(format, args...), false}
}

// withKept adds to err what is left of the work.
func withKept(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hintError{err, fmt.Sprintf(format, args...), true}
}

// continues adds to err what is left of the work and, where that is sure, that
// the same command goes on from there: after an interrupt, or once the machine
// is in order. Other errors would be met again.
func (e *env) continues(err error, kept string) error {
	if e.ctx.Err() != nil || disk.OfMachine(err) {
		kept += "; the same command continues"
	}
	return withKept(err, "%s", kept)
}

// isMissing says whether there is no such file or folder.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// hintOf returns the hint to print for err. What the cause asks for wins over
// what was the likely step at the place where the error came up.
func hintOf(err error) string {
	cause := hintOfCause(err)
	h := hintError{}
	switch {
	case !errors.As(err, &h):
		return cause
	case cause == "":
		return h.hint
	case h.kept:
		return h.hint + "; " + cause
	}
	return cause
}

// hintOfCause returns what to do about an error of the machine, "" for others.
func hintOfCause(err error) string {
	path := ""
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		path = e.Path
	} else if e := (*os.LinkError)(nil); errors.As(err, &e) {
		path = e.New
	}
	memory, none := memoryError{}, (*disk.NoCacheError)(nil)
	is := func(errno syscall.Errno) bool { return errors.Is(err, errno) }
	switch {
	case errors.Is(err, context.Canceled):
	case errors.As(err, &memory):
		return memory.hint
	case errors.As(err, &none):
		return fmt.Sprintf("set %s to a folder for it", none.Variable)
	case is(syscall.EMFILE):
		return fmt.Sprintf("this process may have %s open; `ulimit -n` shows and raises the limit",
			plural(limit(syscall.RLIMIT_NOFILE), "file"))
	case is(syscall.ENFILE):
		return "too many files are open on this machine: other programs have to close some"
	case is(syscall.EDQUOT):
		return "the quota of disk space is used up: remove files, or write elsewhere"
	case is(syscall.ENOSPC) && path != "" && !strings.HasPrefix(path, "/dev/"):
		return fmt.Sprintf("the disk of %s has %s free", disk.Existing(path), format.Bytes(max(disk.Free(path), 0)))
	case is(syscall.ENOSPC):
		return "free space on that disk, or write elsewhere"
	case is(syscall.EFBIG):
		return "`ulimit -f` shows and raises the limit of a file's size; the file system may have one too"
	case is(syscall.EROFS):
		return "it is mounted read-only: write elsewhere"
	case (is(syscall.EACCES) || is(syscall.EPERM)) && path != "":
		return permission(disk.Existing(path))
	}
	return ""
}

func limit(resource int) int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(resource, &l); err != nil {
		return 0
	}
	return int(min(l.Cur, 1<<40))
}

// permission says whose a file is, and who asks.
func permission(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	owner := "another user"
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = userName(int(st.Uid))
	}
	return fmt.Sprintf("%s belongs to %s (%s), this is %s", path, owner, strings.ToLower(info.Mode().String()),
		userName(os.Geteuid()))
}

func userName(id int) string {
	if u, err := user.LookupId(strconv.Itoa(id)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("user %d", id)
}
