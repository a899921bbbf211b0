package torch

// #include "dt.h"
// #cgo noescape dt_philox_normal
// #cgo nocallback dt_philox_normal
// #cgo noescape dt_philox_uniform
// #cgo nocallback dt_philox_uniform
import "C"

import "runtime"

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

// PhiloxNormal returns Float32 standard normals of shape [N, row...] for indices, Int64 [N]. Row i depends on seed,
// tag, step (Int64, one element, below 2^24) and indices[i] alone and equals philox.Normals to 1e-6, so the noise of
// one sample is the same in any batch. On a GPU with kernels ([PluginStatus]) nothing is read back; of a step that is
// too large they take the low 24 bits, which elsewhere is an *Error.
func (s *Scope) PhiloxNormal(seed uint64, tag uint32, step, indices *Tensor, row ...int) *Tensor {
	const op = "PhiloxNormal"
	dims, n := cdims(row)
	var out C.dt_out
	check(op, C.dt_philox_normal(s.cmode(), C.uint64_t(seed), C.uint32_t(tag), step.handle(op), indices.handle(op),
		&dims[0], n, &out))
	x := s.wrap(&out)
	if s.rec != nil {
		s.note(op, []*Tensor{x}, seed, tag, step, indices, copied(row))
	}
	runtime.KeepAlive(step)
	runtime.KeepAlive(indices)
	return x
}

// PhiloxUniform returns for each of indices, Int64 [N], a uniform in [0, 1), which depends on seed, tag, step and that
// index alone as in [Scope.PhiloxNormal]. They are Float64 [N], multiples of 2^-32, and equal philox.Uniform. So in
// Float64 floor(n u) equals philox.Intn(n, ...) for n up to 2^21, and u < p is what it is in Go.
func (s *Scope) PhiloxUniform(seed uint64, tag uint32, step, indices *Tensor) *Tensor {
	const op = "PhiloxUniform"
	var out C.dt_out
	check(op, C.dt_philox_uniform(s.cmode(), C.uint64_t(seed), C.uint32_t(tag), step.handle(op), indices.handle(op),
		&out))
	u := s.wrap(&out)
	if s.rec != nil {
		s.note(op, []*Tensor{u}, seed, tag, step, indices)
	}
	runtime.KeepAlive(step)
	runtime.KeepAlive(indices)
	return u
}
