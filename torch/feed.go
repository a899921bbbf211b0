package torch

// #include "dt.h"
// #cgo noescape dt_feed_tensor
// #cgo nocallback dt_feed_tensor
// #cgo noescape dt_feed_bytes
// #cgo nocallback dt_feed_bytes
import "C"

import (
	"runtime"
	"unsafe"
)

// A Part is one of the tensors that a [Feed] fills.
type Part struct {
	DType DType
	Shape []int
}

// A Feed brings a step what it needs from the host, such as samples, labels and a learning rate: all parts in one
// upload, for which neither the host nor the device waits. Its tensors stay where they are in memory, so that a
// captured step ([Scope.Capture]) finds the next numbers in them.
//
//	f := torch.NewFeed(s, torch.Part{DType: torch.Int64, Shape: []int{n}}, torch.Part{DType: torch.Float64})
//	defer f.Close()
//	for step := range steps {
//		binary.Encode(f.Bytes(0), binary.LittleEndian, labels(step))
//		binary.Encode(f.Bytes(1), binary.LittleEndian, rate(step))
//		f.Send()
//		train(s, f.Tensor(0), f.Tensor(1))
//	}
//
// Send comes behind all work that was given to the device before, which so may read the tensors of the step before to
// its end. A Feed belongs to one goroutine at a time.
type Feed struct {
	h       C.dt_feed
	net     runtime.Cleanup
	tensors []*Tensor
	offsets []int
	host    unsafe.Pointer // of the next Send, nil until Bytes asks for it
}

// feedAlign is where parts begin, in bytes: a multiple of it, as tensors of their own would on a GPU.
const feedAlign = 256

// NewFeed makes a feed of tensors on the device of s, which hold zeros until the first [Feed.Send]. It panics with an
// *Error where memory is out.
func NewFeed(s *Scope, parts ...Part) *Feed {
	const op = "NewFeed"
	s.cmode()
	outsideCapture(op, "what it makes outlives the capture: make it before")
	f := &Feed{}
	total := 0
	for _, p := range parts {
		n := p.DType.Size()
		for _, d := range p.Shape {
			if d < 0 {
				misuse(op, "a part of shape %v", p.Shape)
			}
			n *= d
		}
		f.offsets = append(f.offsets, total)
		total += (n + feedAlign - 1) / feedAlign * feedAlign
	}
	check(op, C.dt_feed_new(C.dt_device(s.dev.index), C.int64_t(total), &f.h))
	h := f.h
	f.net = runtime.AddCleanup(f, queueFree, func() { C.dt_feed_free(h) })
	for i, p := range parts {
		dims, n := cdims(p.Shape)
		var out C.dt_out
		check(op, C.dt_feed_tensor(f.h, C.int64_t(f.offsets[i]), C.int32_t(p.DType), &dims[0], n, &out))
		f.tensors = append(f.tensors, Persist(s.wrap(&out)))
	}
	return f
}

func (f *Feed) handle(op string) C.dt_feed {
	if f.h == nil {
		misuse(op, "the feed is closed")
	}
	return f.h
}

// Bytes returns the host memory of part i for the next [Feed.Send]: little-endian elements, row-major, all of them to
// be written, as what is there belongs to an earlier step. It is not to be used after Send or Close. Bytes waits, and
// counts that, where the host is two steps ahead: the copy that reads this memory is not done. It panics with an *Error
// where the feed is closed or the device has failed.
func (f *Feed) Bytes(i int) []byte {
	const op = "Feed.Bytes"
	h := f.handle(op)
	if f.host == nil {
		outsideCapture(op, waits)
		check(op, C.dt_feed_bytes(h, &f.host))
	}
	t := f.tensors[i]
	return unsafe.Slice((*byte)(unsafe.Add(f.host, f.offsets[i])), t.NumElements()*t.dtype.Size())
}

// Send gives the parts to the device: one upload. It panics with an *Error where the feed is closed or the device has
// failed.
func (f *Feed) Send() {
	const op = "Feed.Send"
	h := f.handle(op)
	outsideCapture(op, uploads)
	check(op, C.dt_feed_send(h))
	f.host = nil
	runtime.KeepAlive(f)
}

// Tensor returns part i as the device has it after the last [Feed.Send]: always the same tensor, at the same place,
// which lives until [Feed.Close]. Of integers no range is known ([Scope.IndexSelect] reads them back): clamp them.
func (f *Feed) Tensor(i int) *Tensor { return f.tensors[i] }

// Close frees the feed and its tensors; closing twice does nothing.
func (f *Feed) Close() {
	for _, t := range f.tensors {
		t.Close()
	}
	if f.h != nil {
		f.net.Stop()
		C.dt_feed_free(f.h)
		f.h, f.host = nil, nil
	}
}

// A Pace keeps the host from running further ahead of the device than so many steps, where nothing else makes it wait.
// What the host has prepared for a GPU takes memory, and cannot be stopped.
type Pace struct {
	h   C.dt_pace
	net runtime.Cleanup
}

// NewPace lets the host be ahead of the device of s by so many steps, at least one.
func NewPace(s *Scope, ahead int) *Pace {
	s.cmode()
	p := &Pace{}
	check("NewPace", C.dt_pace_new(C.dt_device(s.dev.index), C.int32_t(ahead), &p.h))
	h := p.h
	p.net = runtime.AddCleanup(p, queueFree, func() { C.dt_pace_free(h) })
	return p
}

// Step ends a step: it waits until the device has done the one that ended so many steps before, which [Counts] leaves
// out. It does nothing on the CPU. It panics with an *Error where the pace is closed or the device has failed.
func (p *Pace) Step() {
	const op = "Pace.Step"
	if p.h == nil {
		misuse(op, "the pace is closed")
	}
	outsideCapture(op, waits)
	check(op, C.dt_pace_step(p.h))
	runtime.KeepAlive(p)
}

// Close frees the pace; closing twice does nothing.
func (p *Pace) Close() {
	if p.h != nil {
		p.net.Stop()
		C.dt_pace_free(p.h)
		p.h = nil
	}
}
