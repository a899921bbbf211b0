package torch

// #include "dt.h"
// #cgo noescape dt_philox_normal
// #cgo nocallback dt_philox_normal
import "C"

import (
	"runtime"
	"unsafe"
)

// A Generator is libtorch's own random number generator: mt19937 on the CPU, Philox on a GPU.
// It is not safe for concurrent use.
type Generator struct {
	h   C.dt_generator
	net runtime.Cleanup
}

// NewGenerator returns a generator on dev that starts at seed. It is freed when nothing refers to it any more.
func NewGenerator(dev Device, seed uint64) (*Generator, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	g := &Generator{}
	err := func() (err error) {
		defer recoverError(&err)
		check("NewGenerator", C.dt_generator_new(C.dt_device(dev.index), C.uint64_t(seed), &g.h))
		return nil
	}()
	if err != nil {
		return nil, err
	}
	h := g.h
	g.net = runtime.AddCleanup(g, queueFree, func() { C.dt_generator_free(h) })
	return g, nil
}

func (g *Generator) handle(op string) C.dt_generator {
	if g == nil {
		misuse(op, "nil generator")
	}
	outsideCapture(op, "it draws from a Generator, whose state a capture would freeze: use PhiloxNormal")
	return g.h
}

// recoverError turns the panic of a failed operation into *err.
func recoverError(err *error) {
	if r := recover(); r != nil {
		e, ok := r.(*Error)
		if !ok {
			panic(r)
		}
		*err = e
	}
}

// PhiloxNormal returns Float32 standard normals of shape [len(indices), rowShape...]. Row i depends
// on seed, tag, step and indices[i] alone and equals philox.Normals to 1e-6, so the noise of one
// sample is the same in any batch.
func (s *Scope) PhiloxNormal(seed uint64, tag, step uint32, indices []int64, rowShape ...int) *Tensor {
	s.cmode()
	outsideCapture("PhiloxNormal", uploads)
	dims, n := cdims(rowShape)
	var out C.dt_out
	check("PhiloxNormal", C.dt_philox_normal(C.uint64_t(seed), C.uint32_t(tag), C.uint32_t(step),
		(*C.int64_t)(unsafe.SliceData(indices)), C.int64_t(len(indices)), &dims[0], n, C.dt_device(s.dev.index), &out))
	return s.wrap(&out)
}
