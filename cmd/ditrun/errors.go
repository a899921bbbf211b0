package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// A usageError is a mistake in the command line: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// A codeError ends the program with a code of its own: that of another process.
type codeError struct {
	error
	code int
}

// usagef makes the error for a command line that cannot be carried out:
// usagef("--cfg-scale %g: want at least 1", v).
func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// errSaved is the error of a command that was told to stop and ended well.
var errSaved = errors.New("stopped; all that was done is saved")

// conclude prints err and returns the exit code for it. Cause is that of the
// context: after a signal even a command that ended without an error was cut short.
func conclude(w io.Writer, err, cause error) int {
	interrupted := cause == errInterrupted || cause == errTerminated
	if err == nil && !interrupted || errors.Is(err, errSaved) {
		return 0
	}
	hint := hintOf(err)
	code := exitFailed
	other := codeError{}
	switch {
	case interrupted && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, cause)):
		err, code = errInterrupted, exitInterrupted
	case errors.As(err, new(usageError)):
		code = exitUsage
	case errors.As(err, &other):
		code = other.code
	}
	printMessage(w, "error", err.Error())
	if hint != "" {
		printMessage(w, "hint", hint)
	}
	return code
}

// printMessage writes "ditrun: KIND: text"; further lines of text are indented
// so that they read as one message.
func printMessage(w io.Writer, kind, text string) {
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
	fmt.Fprintf(w, "ditrun: %s: %s\n", kind, text)
}
