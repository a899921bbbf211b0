package torch

// #include "dt.h"
import "C"

import (
	"errors"
	"fmt"
	"strings"
)

// What went wrong, for errors.Is.
var (
	ErrOutOfMemory = errors.New("out of memory")
	ErrCUDA        = errors.New("CUDA failure")
	ErrShape       = errors.New("shape mismatch")
)

// An Error is a failed operation.
type Error struct {
	Op     string  // the method or function
	Msg    string  // first line of libtorch's message; where memory is out, a line of what was asked for and is free
	Shapes [][]int // of the operands, but not where memory is out
	kind   error
}

// Error returns the operation, libtorch's message and the operands' shapes.
func (e *Error) Error() string {
	msg := fmt.Sprintf("torch: %s: %s", e.Op, e.Msg)
	if len(e.Shapes) > 0 {
		msg += fmt.Sprintf(" (operands %v)", e.Shapes)
	}
	return msg
}

// Unwrap returns ErrOutOfMemory, ErrCUDA, ErrShape or nil.
func (e *Error) Unwrap() error { return e.kind }

// check panics with an *Error if e is one.
func check(op string, e *C.dt_error, operands ...*Tensor) {
	if e != nil {
		panic(asError(op, e, operands))
	}
}

// asError takes what a call of the shim returned, which is not NULL.
func asError(op string, e *C.dt_error, operands []*Tensor) *Error {
	text := C.GoString(e.msg)
	msg, _, _ := strings.Cut(text, "\n")
	err := &Error{Op: op, Msg: msg}
	switch e.code {
	case C.DT_ERR_OOM:
		err.kind, err.Msg = ErrOutOfMemory, outOfMemory(text)
		operands = nil // the line says what matters
	case C.DT_ERR_CUDA:
		err.kind = ErrCUDA
	case C.DT_ERR_SHAPE:
		err.kind = ErrShape
	}
	C.dt_error_free(e)
	for _, t := range operands {
		if t != nil {
			err.Shapes = append(err.Shapes, t.Shape())
		}
	}
	return err
}

// misuse panics with an *Error for a mistake of the caller that libtorch never sees.
func misuse(op, format string, args ...any) {
	panic(&Error{Op: op, Msg: fmt.Sprintf(format, args...)})
}
