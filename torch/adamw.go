package torch

// #include "shim/dt.h"
// #cgo noescape dt_adamw_step
// #cgo nocallback dt_adamw_step
// #cgo noescape dt_adamw_state
// #cgo nocallback dt_adamw_state
import "C"

import "runtime"

// AdamW is the fused optimizer behind package optim. Use that package.
type AdamW struct {
	h      C.dt_adamw
	params []*Tensor
	net    runtime.Cleanup
}

// NewAdamW makes the optimizer of params (Float32, on one device) and moves their storage into one
// flat buffer.
func NewAdamW(params []*Tensor, beta1, beta2, eps, weightDecay float64) (o *AdamW, err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	defer recoverError(&err)
	hs := handles("NewAdamW", params)
	o = &AdamW{params: params}
	cfg := C.dt_adamw_config{beta1: C.double(beta1), beta2: C.double(beta2), eps: C.double(eps), weight_decay: C.double(weightDecay)}
	check("NewAdamW", C.dt_adamw_new(first(hs), C.int32_t(len(hs)), cfg, &o.h))
	runtime.KeepAlive(params)
	h := o.h
	o.net = runtime.AddCleanup(o, queueFree, func() { C.dt_adamw_free(h) })
	return o, nil
}

// Close frees the state.
func (o *AdamW) Close() {
	if o.h != nil {
		o.net.Stop()
		C.dt_adamw_free(o.h)
		o.h = nil
	}
}

func (o *AdamW) handle(op string) C.dt_adamw {
	if o.h == nil {
		misuse(op, "the optimizer is closed")
	}
	return o.h
}

// Step is described at optim.AdamW.Step.
func (o *AdamW) Step(s *Scope, lr, maxNorm, emaDecay float64) *Tensor {
	s.cmode()
	var out C.dt_out
	check("AdamW.Step", C.dt_adamw_step(o.handle("AdamW.Step"), C.double(lr), C.double(maxNorm), C.double(emaDecay), &out))
	runtime.KeepAlive(o)
	return s.wrap(&out)
}

// ZeroGrad forgets the gradients.
func (o *AdamW) ZeroGrad() {
	check("AdamW.ZeroGrad", C.dt_adamw_zero_grad(o.handle("AdamW.ZeroGrad")))
	runtime.KeepAlive(o)
}

// EMA returns the average of parameter i as a view.
func (o *AdamW) EMA(s *Scope, i int) *Tensor { return o.state(s, 0, i) }

// Moments returns the first and second moment of parameter i as views, nil where it is frozen.
func (o *AdamW) Moments(s *Scope, i int) (m, v *Tensor) { return o.state(s, 1, i), o.state(s, 2, i) }

// StepCount returns the number of steps taken, a Float32 scalar on the device.
func (o *AdamW) StepCount(s *Scope) *Tensor { return o.state(s, 3, 0) }

func (o *AdamW) state(s *Scope, kind, i int) *Tensor {
	s.cmode()
	var out C.dt_out
	check("AdamW.state", C.dt_adamw_state(o.handle("AdamW.state"), C.int32_t(kind), C.int32_t(i), &out))
	runtime.KeepAlive(o)
	if out.t == nil {
		return nil
	}
	return s.wrap(&out)
}
