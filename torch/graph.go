package torch

// #include "dt.h"
import "C"

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Graph is a computation that is made once and repeated with other values. On a GPU it is a CUDA graph, which starts
// all kernels at once, in the time that the host takes for a few. So only what persistent tensors hold may change from
// one [Graph.Replay] to the next. On the CPU each Replay calls the function again and compares all that a CUDA graph
// would have frozen.
type Graph struct {
	f                       func(s *Scope) []*Tensor
	scope                   Scope      // how to compute; without an arena
	record                  []string   // of the first call of f
	results                 []*Tensor  // nil before that
	h                       C.dt_graph // on a GPU
	net                     runtime.Cleanup
	onGPU, replayed, closed bool
}

// Capture prepares a graph that computes f, in the way that s does. It computes nothing. The graph lives until
// [Graph.Close]. On a GPU Capture panics with an *Error where f does something that a CUDA graph cannot hold, and where
// libditcuda.so is not in use ([PluginStatus]); [Scope.Try] around it lets the caller go on without a graph.
//
// f gets a scope of its own. Whatever it computes with must be made there, or be persistent and stay where it is: what
// changes from step to step, such as a batch or the number of the step, is written to persistent tensors between two
// replays. In f, what goes between the host and the device panics with an *Error that names the call: uploads ([From],
// [Tensor.CopyFromBytes]), read-backs ([Data], [Tensor.Item]), waits ([Scope.Synchronize]), and so do draws from a
// [Generator] and calls to other processes. f must change nothing on the Go side that it depends on: on a GPU it is
// called once, on the CPU by each Replay.
//
// Compute f once without a graph before: what it makes on its first call, such as gradients to which the next call
// adds, is there then.
func (s *Scope) Capture(f func(s *Scope) []*Tensor) *Graph { return s.capture(f, s.dev.IsCUDA()) }

func (s *Scope) capture(f func(s *Scope) []*Tensor, onGPU bool) *Graph {
	outsideCapture("Capture", "a capture cannot hold another one")
	s.cmode() // s can be used
	g := &Graph{f: f, scope: Scope{mode: s.mode, dev: s.dev}, onGPU: onGPU}
	if onGPU {
		g.begin()
	}
	return g
}

// begin captures what f starts on the GPU.
func (g *Graph) begin() {
	drain()
	// From dt_graph_begin to dt_graph_end the current stream of the thread is another one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var h C.dt_graph
	check("Capture", C.dt_graph_begin(C.dt_device(g.scope.dev.index), &h))
	g.h, g.net = h, runtime.AddCleanup(g, queueFree, func() { C.dt_graph_free(h) })
	captured := false
	defer func() {
		if !captured {
			g.Close()
		}
	}()
	g.call()
	check("Capture", C.dt_graph_end(g.h))
	captured = true
}

// Replay computes the function of the graph once, and with that its [Graph.Results]. It panics with an *Error where the
// function does and, on the CPU, where an operation differs from that of the first Replay: in its name, a number, a
// shape or type, its operands, the mode of the scope, or the place of a persistent tensor in memory.
func (g *Graph) Replay() {
	if g.closed {
		misuse("Replay", "the graph is closed")
	}
	outsideCapture("Replay", "a capture cannot hold another one")
	if g.onGPU {
		check("Replay", C.dt_graph_replay(g.h))
	} else {
		g.call()
	}
	g.replayed = true
}

// call calls f and compares what it does with the first time.
func (g *Graph) call() {
	rec := &recorder{first: g.record == nil, lines: g.record}
	parent := g.scope
	parent.rec = rec
	s := parent.child()
	s.mode |= modeCapture
	rec.during(func() {
		defer s.a.close() // in here, where it frees nothing that was dropped: a CUDA graph ends only later
		results := g.f(s)
		rec.note("the results", nil, results) // always the last line: an operation more or less differs from it
		rec.done = true
		g.keep(s.NoGrad(), results)
	})
	g.record = rec.lines
}

// keep writes the results of one call to those of the graph.
func (g *Graph) keep(s *Scope, results []*Tensor) {
	if g.results != nil {
		for i, t := range results {
			if t != nil {
				s.Copy_(g.results[i], t)
			}
		}
		return
	}
	copies := make([]*Tensor, len(results))
	for i, t := range results {
		if t != nil {
			copies[i] = s.Clone(t)
		}
	}
	for _, t := range copies {
		if t != nil {
			Persist(t)
		}
	}
	g.results = copies
}

// Results returns what the function returned, as persistent tensors of the graph: the same ones after each Replay,
// which overwrites them. They are copies, and outside the autograd graph. Results panics with an *Error before the
// first Replay and after Close.
func (g *Graph) Results() []*Tensor {
	switch {
	case g.closed:
		misuse("Results", "the graph is closed")
	case !g.replayed:
		misuse("Results", "nothing was computed yet: Replay first")
	}
	return g.results
}

// Close frees the graph and its results; closing twice does nothing.
func (g *Graph) Close() {
	for _, t := range g.results {
		if t != nil {
			t.Close()
		}
	}
	g.results, g.record, g.f, g.closed = nil, nil, nil, true
	if g.h != nil {
		g.net.Stop()
		C.dt_graph_free(g.h)
		g.h = nil
	}
}

// A recorder writes down what a capture computes, one line an operation, or compares it with the lines of the first
// time. Tensors that were made in the capture are numbered; of others the line has the address.
type recorder struct {
	first bool     // nothing is compared yet
	lines []string // of the first time
	n     int      // operations so far
	made  int      // tensors so far
	mode  uint32   // of the last operation
	line  []byte
	err   *Error // the first difference
	done  bool   // what follows is not of the function
	// Tensors of the capture that are leaves of autograd: on the CPU they may lie elsewhere the next time.
	leaves []*Tensor
}

// madeLeaves returns those of the leaves that are still there.
func (r *recorder) madeLeaves() (hs []C.dt_tensor) {
	for _, t := range r.leaves {
		if t.h != nil {
			hs = append(hs, t.h)
		}
	}
	return hs
}

// captures holds the recorders of the captures under way, by the number of their thread. What belongs to no scope, such
// as a persistent tensor, finds there whether it is used in one.
var captures struct {
	n         atomic.Int32 // of captures: where there is none, as nearly always, nothing is looked up
	recorders sync.Map
}

// capturing returns the recorder of the capture that runs on this thread, nil where there is none.
func capturing() *recorder {
	if captures.n.Load() == 0 {
		return nil
	}
	r, _ := captures.recorders.Load(unix.Gettid())
	rec, _ := r.(*recorder)
	return rec
}

// Why a call is refused in a capture, and what to do instead.
const (
	uploads   = "it uploads, which a replay would not repeat: write to a persistent tensor before Replay"
	readsBack = "it reads back, which a capture cannot: return the tensor and read it after Replay"
	waits     = "it waits for the device, which a capture cannot: wait after Replay"
	moves     = "it copies to another device, which a capture cannot: do that before or after Replay"
)

// outsideCapture panics with an *Error where this thread is in a capture.
func outsideCapture(op, why string) {
	if capturing() != nil {
		misuse(op, "called within a capture: %s", why)
	}
}

// during calls f while r is the recorder of this thread, which f keeps.
func (r *recorder) during(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	captures.recorders.Store(thread, r)
	captures.n.Add(1)
	defer func() {
		captures.n.Add(-1)
		captures.recorders.Delete(thread)
	}()
	f()
}

// note is recorder.note for an operation on s.
func (s *Scope) note(op string, results []*Tensor, args ...any) {
	s.rec.mode = s.mode
	s.rec.note(op, results, args...)
}

// copied returns a copy of xs. Slices go to note as copies, so that the compiler leaves those of the callers on the
// stack where nothing is captured.
func copied[T any](xs []T) []T { return append([]T(nil), xs...) }

// note writes down one operation, or panics with an *Error where it is another one than the first time.
func (r *recorder) note(op string, results []*Tensor, args ...any) {
	if r.done {
		return
	}
	b := r.line[:0]
	for i, t := range results {
		if i > 0 {
			b = append(b, ", "...)
		}
		if t == nil {
			b = append(b, "nil"...)
			continue
		}
		r.made++
		t.number = r.made
		b = fmt.Appendf(b, "#%d %v %v", t.number, t.dtype, t.shape)
	}
	if results != nil {
		b = append(b, " = "...)
	}
	b = append(append(b, op...), '(')
	for i, arg := range args {
		if i > 0 {
			b = append(b, ", "...)
		}
		switch x := arg.(type) {
		case *Tensor:
			b = x.appendOperand(b)
		case []*Tensor:
			b = append(b, '[')
			for i, t := range x {
				if i > 0 {
					b = append(b, ' ')
				}
				b = t.appendOperand(b)
			}
			b = append(b, ']')
		default:
			b = fmt.Append(b, x)
		}
	}
	b = append(b, ')')
	for _, m := range []struct {
		bit  uint32
		name string
	}{{modeGrad, " for autograd"}, {modeTF32, " in TF32"}, {modeDeterministic, " deterministic"}} {
		if r.mode&m.bit != 0 {
			b = append(b, m.name...)
		}
	}
	r.line = b
	r.compare()
}

// appendOperand appends what must stay the same of an operand.
func (t *Tensor) appendOperand(b []byte) []byte {
	switch {
	case t == nil:
		return append(b, "nil"...)
	case t.number > 0:
		return fmt.Appendf(b, "#%d", t.number)
	}
	return fmt.Appendf(b, "%v %v at %#x", t.dtype, t.shape, uint64(C.dt_address(t.h)))
}

func (r *recorder) compare() {
	r.n++
	switch {
	case r.first:
		r.lines = append(r.lines, string(r.line))
	case r.err != nil:
		panic(r.err)
	case r.lines[r.n-1] != string(r.line):
		r.differs("operation %d was %s, it is %s now", r.n, r.lines[r.n-1], r.line)
	}
}

// differs panics with an *Error. Should the function pass over it, what it does next panics with it again.
func (r *recorder) differs(format string, args ...any) {
	r.err = &Error{Op: "Replay", Msg: fmt.Sprintf(format, args...) +
		": only what persistent tensors hold may change from one replay to the next"}
	panic(r.err)
}
