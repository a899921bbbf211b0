package torch

// #include "dt.h"
// #cgo noescape dt_readback_start
// #cgo nocallback dt_readback_start
// #cgo noescape dt_readback_wait
// #cgo nocallback dt_readback_wait
import "C"

import (
	"runtime"
	"unsafe"
)

// A Readback brings the results of steps to the host while the device computes the next ones, as a [Feed] brings a step
// what it needs.
//
//	r := torch.NewReadback(s, 4*n)
//	defer r.Close()
//	for step := range steps {
//		r.Start(compute(s, step))
//		if step > 0 {
//			use(torch.Received[float32](r)) // of the step before
//		}
//	}
//	use(torch.Received[float32](r))
//
// A Readback belongs to one goroutine at a time.
type Readback struct {
	h   C.dt_readback
	net runtime.Cleanup
}

// NewReadback makes a readback of tensors on the device of s, each of at most nbytes. It panics with an *Error where
// memory is out.
func NewReadback(s *Scope, nbytes int) *Readback {
	const op = "NewReadback"
	s.cmode()
	r := &Readback{}
	check(op, C.dt_readback_new(C.dt_device(s.dev.index), C.int64_t(nbytes), &r.h))
	h := r.h
	r.net = runtime.AddCleanup(r, queueFree, func() { C.dt_readback_free(h) })
	return r
}

func (r *Readback) handle(op string) C.dt_readback {
	if r.h == nil {
		misuse(op, "the readback is closed")
	}
	outsideCapture(op, readsBack)
	return r.h
}

// Start begins to copy t to the host, which [Counts] takes for a read-back. The tensor may be closed at once, but not
// written to before [Received] has returned it. Start panics with an *Error where two are on their way.
func (r *Readback) Start(t *Tensor) {
	const op = "Readback.Start"
	check(op, C.dt_readback_start(r.handle(op), t.handle(op)), t)
	runtime.KeepAlive(t)
	runtime.KeepAlive(r)
}

// Received returns the elements, row-major, of the tensor that was started first of those that were not received yet.
// They are there until the next [Readback.Start], or Close. Received waits, and counts that, where the
// device is not done with it. It panics with an *Error where none is on its way or the device has failed.
func Received[T Element](r *Readback) []T {
	const op = "Received"
	var p unsafe.Pointer
	var n C.int64_t
	check(op, C.dt_readback_wait(r.handle(op), &p, &n))
	runtime.KeepAlive(r)
	var e T
	return unsafe.Slice((*T)(p), int(n)/int(unsafe.Sizeof(e)))
}

// Close waits for what is on its way, and frees the memory of the readback; closing twice does nothing.
func (r *Readback) Close() {
	if r.h != nil {
		r.net.Stop()
		C.dt_readback_free(r.h)
		r.h = nil
	}
}
