package torch

// #include "dt.h"
// #cgo noescape dt_free_many
// #cgo nocallback dt_free_many
import "C"

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// The bits of a scope's mode, which each C call gets.
const (
	modeGrad          = C.DT_MODE_GRAD
	modeTF32          = C.DT_MODE_TF32
	modeDeterministic = C.DT_MODE_DETERMINISTIC
	modeCapture       = C.DT_MODE_CAPTURE
)

// A Scope makes tensors and frees them when it ends. It belongs to one goroutine at a time. How its operations compute
// ([Scope.NoGrad], [Scope.TF32], [Scope.Deterministic]) is its own: a scope opened in it by [Scope.Sub],
// [Scope.SubAll] or [Scope.Try] computes in the same way, and nothing of it reaches other scopes.
type Scope struct {
	a    *arena
	mode uint32
	dev  Device
	rec  *recorder // of the capture that the scope is part of; nil outside
}

// An arena holds what one scope made. The handles stand in a box of their own that does not point
// back, so that a cleanup can free them when the arena was abandoned by a panicking goroutine.
type arena struct {
	tensors []*Tensor
	box     *box
	closed  bool
}

type box struct{ handles []C.dt_tensor }

// reclaim collects what was dropped without being closed: handles of arenas and of persistent
// tensors, and how to free the rest. A cleanup runs on a goroutine of its own, possibly while a CUDA
// graph is captured, so it only queues; the next scope that opens or closes outside a capture frees.
var reclaim struct {
	sync.Mutex
	handles []C.dt_tensor
	frees   []func()
}

func queue(b *box) {
	reclaim.Lock()
	reclaim.handles = append(reclaim.handles, b.handles...)
	reclaim.Unlock()
}

func queueFree(free func()) {
	reclaim.Lock()
	reclaim.frees = append(reclaim.frees, free)
	reclaim.Unlock()
}

func drain() {
	if capturing() != nil {
		return
	}
	reclaim.Lock()
	hs, frees := reclaim.handles, reclaim.frees
	reclaim.handles, reclaim.frees = nil, nil
	reclaim.Unlock()
	if len(hs) > 0 {
		C.dt_free_many(&hs[0], C.int64_t(len(hs)))
	}
	for _, free := range frees {
		free()
	}
}

func newArena() *arena {
	a := &arena{box: &box{}}
	runtime.AddCleanup(a, queue, a.box)
	return a
}

func (a *arena) close() {
	for _, t := range a.tensors {
		if t != nil {
			t.h, t.a = nil, nil
		}
	}
	if hs := a.box.handles; len(hs) > 0 {
		C.dt_free_many(&hs[0], C.int64_t(len(hs)))
	}
	a.tensors, a.box.handles, a.closed = nil, nil, true
	drain()
}

func (a *arena) add(t *Tensor) {
	t.a, t.slot = a, len(a.tensors)
	a.tensors = append(a.tensors, t)
	a.box.handles = append(a.box.handles, t.h)
}

// remove takes t out of its arena without freeing it.
func (a *arena) remove(t *Tensor) {
	a.tensors[t.slot], a.box.handles[t.slot] = nil, nil
	t.a = nil
}

// slots bounds how many goroutines compute at once: OpenMP keeps a team for each calling thread.
var slots = make(chan struct{}, 4)

// running holds the numbers of the threads that are in Run.
var running sync.Map

// Run opens a scope on dev that records for autograd and has TF32 and Deterministic off, calls f and frees all that f
// made. It returns f's error, or the *Error of an operation that failed. Tensors must not leave f except through
// [Persist]. Run locks its OS thread. It must not be nested, since those inside would wait for the places that those
// outside hold; it panics where it is: [Scope.Try] opens a scope within a scope. f that waits for other goroutines does
// so in [Scope.Pause].
func Run(dev Device, f func(s *Scope) error) error {
	if err := Available(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid() // of this goroutine alone while it is locked
	if _, nested := running.LoadOrStore(thread, true); nested {
		misuse("Run", "called within Run: use the scope's Try")
	}
	defer running.Delete(thread)
	slots <- struct{}{}
	defer func() { <-slots }()
	C.dt_init_thread()
	return try(&Scope{mode: modeGrad, dev: dev}, f)
}

// Pause calls f, which waits for another goroutine, and lets others compute in the place of this one meanwhile: the one
// that f waits for may be waiting in [Run] for a place. f must not use s.
func (s *Scope) Pause(f func()) {
	s.cmode() // s can be used
	<-slots
	defer func() { slots <- struct{}{} }()
	f()
}

// try calls f with a child of parent, which may be without an arena.
func try(parent *Scope, f func(s *Scope) error) (err error) {
	drain()
	s := parent.child()
	defer func() {
		s.a.close()
		if r := recover(); r != nil {
			e, ok := r.(*Error)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	return f(s)
}

// Try calls f with a child scope and returns its error, or the *Error of an operation that failed
// in it. Everything that the child made is freed.
func (s *Scope) Try(f func(s *Scope) error) error {
	s.cmode() // s can be used
	return try(s, f)
}

// child returns a scope of its own that computes as s does.
func (s *Scope) child() *Scope { return &Scope{a: newArena(), mode: s.mode, dev: s.dev, rec: s.rec} }

// Sub calls f with a child scope, moves its result (which may be nil) to s and frees the rest.
func (s *Scope) Sub(f func(s *Scope) *Tensor) *Tensor {
	s.cmode() // s can be used
	c := s.child()
	defer c.a.close()
	t := f(c)
	s.adopt(c.a, t)
	return t
}

// SubAll is [Scope.Sub] for several results.
func (s *Scope) SubAll(f func(s *Scope) []*Tensor) []*Tensor {
	s.cmode() // s can be used
	c := s.child()
	defer c.a.close()
	ts := f(c)
	for _, t := range ts {
		s.adopt(c.a, t)
	}
	return ts
}

// adopt moves t from the child arena c to s. A tensor of an outer scope, and a persistent one, stays.
func (s *Scope) adopt(c *arena, t *Tensor) {
	if t != nil && t.a == c {
		c.remove(t)
		s.a.add(t)
	}
}

// NoGrad returns a view of s whose operations are not recorded for autograd.
func (s *Scope) NoGrad() *Scope { return s.with(modeGrad, false) }

// RecordsGrad reports whether operations of s are recorded for autograd.
func (s *Scope) RecordsGrad() bool { return s.mode&modeGrad != 0 }

// TF32 returns a view of s with TF32 on or off. With it, matrix products and convolutions of Float32 on a GPU round
// their inputs to ten bits of 23, which makes them several times as fast. Without it, as is the default, they keep them
// all. A backward pass computes as the scope does on which [Scope.Backward] is called. On the CPU it has no effect.
//
// libtorch keeps this switch, and that of [Scope.Deterministic], for the whole process. So each call sets them and
// switches them off again, and calls of other goroutines that want them otherwise wait until it ends.
func (s *Scope) TF32(on bool) *Scope { return s.with(modeTF32, on) }

// Deterministic returns a view of s on which operations without a deterministic form fail and cuDNN chooses
// deterministic algorithms, or do not, as is the default.
func (s *Scope) Deterministic(on bool) *Scope { return s.with(modeDeterministic, on) }

// with returns a view of s with one bit of its mode on or off.
func (s *Scope) with(bit uint32, on bool) *Scope {
	mode := s.mode &^ bit
	if on {
		mode |= bit
	}
	return &Scope{a: s.a, mode: mode, dev: s.dev, rec: s.rec}
}

// modeWithin returns the mode that libtorch is in during a call on s.
func (s *Scope) modeWithin() uint32 {
	var m C.dt_mode
	check("modeWithin", C.dt_mode_within(s.cmode(), &m))
	return uint32(m)
}

// Device returns where s makes its tensors.
func (s *Scope) Device() Device { return s.dev }

// Release frees tensors of s before it ends, for big temporaries. Nil tensors are skipped.
func (s *Scope) Release(ts ...*Tensor) {
	for _, t := range ts {
		if t == nil || t.h == nil {
			continue
		}
		if t.a == nil {
			misuse("Release", "the tensor is persistent: use Close")
		}
		h := t.h
		t.a.remove(t)
		t.h = nil
		C.dt_free_many(&h, 1)
	}
}

// Persist takes t out of its scope: it lives until [Tensor.Close]. It returns t. It panics with an *Error where t is
// closed, and where it was made in a capture.
func Persist(t *Tensor) *Tensor {
	t.handle("Persist")
	if t.a == nil {
		return t
	}
	if t.number > 0 {
		misuse("Persist", "called within a capture: return the tensor from the captured function")
	}
	t.a.remove(t)
	// The net under a persistent tensor that is dropped without Close.
	t.net = runtime.AddCleanup(t, queue, &box{handles: []C.dt_tensor{t.h}})
	return t
}

// Close frees a persistent tensor; closing twice does nothing. It panics with an *Error where t belongs to a scope.
func (t *Tensor) Close() {
	if t.h == nil {
		return
	}
	if t.a != nil {
		misuse("Close", "the tensor belongs to a scope, which frees it")
	}
	t.net.Stop()
	h := t.h
	t.h = nil
	C.dt_free_many(&h, 1)
}

func (s *Scope) cmode() C.dt_mode {
	if s.OnlyShapes() {
		misuse("Scope", "it is one of Shapes: nothing can be computed on it")
	}
	if s.a.closed {
		misuse("Scope", "used after it ended")
	}
	if s.rec == nil && capturing() != nil {
		misuse("Scope", "used within a capture, which has a scope of its own")
	}
	return C.dt_mode(s.mode)
}
