package torch

// #include "dt.h"
import "C"

// Aside calls f, whose work a GPU does beside that of other goroutines, in a stream of its own, which all calls of
// Aside on that GPU share. That work begins when the GPU has done all that it was given before Aside, or before the
// latest call of follow: f calls it where it takes tensors that another goroutine has made since. A tensor of another
// goroutine may be freed when f has read back what it made of it. Aside returns f's error, or the *Error of an
// operation that failed. On the CPU it only calls f.
func (s *Scope) Aside(f func(s *Scope, follow func()) error) error {
	outsideCapture("Aside", "a capture has a stream of its own")
	return s.Try(func(s *Scope) error {
		var h C.dt_aside
		check("Aside", C.dt_aside_begin(C.dt_device(s.dev.index), &h))
		defer C.dt_aside_end(h)
		return f(s, func() { check("Aside", C.dt_aside_follow(h)) })
	})
}
