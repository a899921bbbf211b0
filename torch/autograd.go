package torch

// #include "dt.h"
// #cgo noescape dt_grad
// #cgo nocallback dt_grad
import "C"

import (
	"fmt"
	"runtime"
)

// Backward adds the gradients of the scalar loss to every leaf tensor that requires them. It computes as s does
// ([Scope.TF32]), not as the scope of the operations that it goes back through.
func (s *Scope) Backward(loss *Tensor) {
	mode, h := s.cmode(), loss.handle("Backward")
	var leaves string
	if s.rec != nil {
		var n, withGrad C.int64_t
		var hash C.uint64_t
		made := s.rec.madeLeaves()
		check("Backward", C.dt_backward_leaves(h, first(made), C.int32_t(len(made)), &n, &withGrad, &hash))
		leaves = fmt.Sprintf("to %d tensors at %#x, %d of them with a gradient", n, uint64(hash), withGrad)
	}
	check("Backward", C.dt_backward(mode, h), loss)
	if s.rec != nil {
		s.note("Backward", nil, loss, leaves)
	}
	runtime.KeepAlive(loss)
}

// Grad returns the gradient accumulated in leaf p, nil if there is none. It shares p's storage.
func (s *Scope) Grad(p *Tensor) *Tensor {
	s.cmode()
	var out C.dt_out
	check("Grad", C.dt_grad(p.handle("Grad"), &out), p)
	var g *Tensor
	if out.t != nil {
		g = s.wrap(&out)
	}
	if s.rec != nil {
		s.note("Grad", []*Tensor{g}, p)
	}
	runtime.KeepAlive(p)
	return g
}

// ClearGrad forgets the gradient of t. It panics with an *Error where t is closed.
func (t *Tensor) ClearGrad() {
	check("ClearGrad", C.dt_clear_grad(t.handle("ClearGrad")), t)
	if r := capturing(); r != nil {
		r.note("ClearGrad", nil, t)
	}
	runtime.KeepAlive(t)
}
