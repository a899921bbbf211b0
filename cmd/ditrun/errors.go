package main

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// The rule of exit codes stands at the top of main.go.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitHangup      = 129
	exitInterrupted = 130
	exitTerminated  = 143
)

// signalCode is the exit code of work that a signal cut short: 128 and the signal's number. It is 0 for other causes.
func signalCode(cause error) int {
	switch cause {
	case errInterrupted:
		return exitInterrupted
	case errTerminated:
		return exitTerminated
	case errHangup:
		return exitHangup
	}
	return 0
}

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

// conclude prints err and returns the exit code for it. Cause is that of the context: it decides the code of work that
// a signal cut short, not that of work which was done all the same.
func conclude(w io.Writer, err, cause error) int {
	if err == nil || errors.Is(err, errSaved) {
		return 0
	}
	cut := signalCode(cause)
	hint := hintOf(err)
	code := exitFailed
	other := codeError{}
	switch {
	case cut != 0 && (errors.Is(err, context.Canceled) || errors.Is(err, cause)):
		err, code = errInterrupted, cut
	case cause == errClosedPipe && errors.Is(err, context.Canceled):
		err = errClosedPipe
	case errors.As(err, new(usageError)):
		code = exitUsage
	case errors.As(err, &other):
		code = other.code
	}
	if err.Error() != "" { // a process of several leaves the message to the first
		printMessage(w, messageWidth(w), "error", err.Error())
	}
	if hint != "" {
		printMessage(w, messageWidth(w), "hint", hint)
	}
	return code
}
