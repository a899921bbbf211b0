package torch

// #include "dt.h"
// #cgo noescape dt_adamw_step
// #cgo nocallback dt_adamw_step
// #cgo noescape dt_adamw_last_backward
// #cgo nocallback dt_adamw_last_backward
// #cgo noescape dt_adamw_missing
// #cgo nocallback dt_adamw_missing
// #cgo noescape dt_adamw_averages
// #cgo nocallback dt_adamw_averages
// #cgo noescape dt_adamw_copy
// #cgo nocallback dt_adamw_copy
// #cgo noescape dt_adamw_buffer
// #cgo nocallback dt_adamw_buffer
// #cgo noescape dt_adamw_snapshot
// #cgo nocallback dt_adamw_snapshot
import "C"

import (
	"runtime"
	"strings"
	"unsafe"

	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/internal/native"
)

// An adamW is the fused optimizer behind package optim, which says what its methods do.
type adamW struct {
	h      C.dt_adamw
	params []*Tensor
	names  []string
	group  *group // nil alone
	net    runtime.Cleanup
}

func newAdamW(params []*Tensor, cfg native.AdamWConfig[*Tensor]) (_ native.AdamW[*Scope, *Tensor], err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	defer recoverError(&err)
	outsideCapture("NewAdamW", "what it makes outlives the capture: make it before")
	hs := handles("NewAdamW", params)
	o := &adamW{params: params, names: cfg.Names}
	if cfg.Group != nil {
		o.group = cfg.Group.(*group)
	}
	offsets, buckets := int64s(cfg.Offsets), int64s(cfg.Buckets)
	constants := C.dt_adamw_config{beta1: C.double(cfg.Beta1), beta2: C.double(cfg.Beta2), eps: C.double(cfg.Eps),
		weight_decay: C.double(cfg.WeightDecay)}
	check("NewAdamW", C.dt_adamw_new(first(hs), C.int32_t(len(hs)), unsafe.SliceData(offsets),
		unsafe.SliceData(buckets), C.int32_t(len(buckets)), C.int64_t(cfg.Total), constants,
		o.groupHandle("NewAdamW"), cbool(cfg.Plain), &o.h))
	runtime.KeepAlive(params)
	h := o.h
	o.net = runtime.AddCleanup(o, queueFree, func() { C.dt_adamw_free(h) })
	return o, nil
}

func int64s(xs []int) []C.int64_t {
	out := make([]C.int64_t, len(xs))
	for i, x := range xs {
		out[i] = C.int64_t(x)
	}
	return out
}

func (o *adamW) Close() {
	if o.h != nil {
		o.net.Stop()
		C.dt_adamw_free(o.h)
		o.h = nil
	}
}

func (o *adamW) handle(op string) C.dt_adamw {
	if o.h == nil {
		misuse(op, "the optimizer is closed")
	}
	o.groupHandle(op) // which the optimizer uses too
	return o.h
}

func (o *adamW) groupHandle(op string) C.dt_group {
	if o.group == nil {
		return nil
	}
	return o.group.handle(op)
}

func (o *adamW) LastBackward() {
	check("LastBackward", C.dt_adamw_last_backward(o.handle("LastBackward")))
	runtime.KeepAlive(o)
}

// complete refuses a step of a group in which trained parameters have no gradient.
func (o *adamW) complete(op string) {
	if o.group == nil {
		return
	}
	positions := make([]C.int32_t, len(o.params))
	var n C.int32_t
	check(op, C.dt_adamw_missing(o.handle(op), unsafe.SliceData(positions), &n))
	if n > 0 {
		var some []string
		for _, i := range positions[:min(n, 12)] {
			some = append(some, o.names[i])
		}
		misuse(op, "%s without a gradient, which all ranks must have for all: %s",
			names.Plural(int(n), "trained parameter"), strings.Join(some, ", "))
	}
}

func (o *adamW) Step(s *Scope, opt native.Step[*Tensor]) (norm, skipped *Tensor) {
	const op = "AdamW.Step"
	s.cmode()
	h := o.handle(op)
	o.complete(op)
	c := C.dt_adamw_options{lr: opt.LR.handle(op), ema_decay: opt.EMADecay.handleOrNil(op),
		max_norm: C.double(opt.MaxNorm), skip: opt.Skip.handleOrNil(op)}
	var out [2]C.dt_out
	check(op, C.dt_adamw_step(h, &c, &out[0]))
	runtime.KeepAlive(o)
	norm, skipped = s.wrap(&out[0]), s.wrap(&out[1])
	if s.rec != nil {
		s.note(op, []*Tensor{norm, skipped}, o.h, opt.LR, opt.MaxNorm, opt.EMADecay, opt.Skip)
	}
	for _, t := range []*Tensor{opt.LR, opt.EMADecay, opt.Skip} {
		runtime.KeepAlive(t)
	}
	return norm, skipped
}

func (o *adamW) Watch() {
	check("AdamW.Watch", C.dt_adamw_watch(o.handle("AdamW.Watch")))
	if r := capturing(); r != nil {
		r.note("AdamW.Watch", nil, o.h)
	}
	runtime.KeepAlive(o)
}

func (o *adamW) Change(s *Scope) *Tensor {
	s.cmode()
	var out C.dt_out
	check("AdamW.Change", C.dt_adamw_change(o.handle("AdamW.Change"), &out))
	runtime.KeepAlive(o)
	norm := s.wrap(&out)
	if s.rec != nil {
		s.note("AdamW.Change", []*Tensor{norm}, o.h)
	}
	return norm
}

func (o *adamW) Copy(s *Scope, position int) *Tensor {
	const op = "AdamW.Copy"
	s.cmode()
	outsideCapture(op, "what it makes outlives the capture: make it before")
	var out C.dt_out
	check(op, C.dt_adamw_copy(o.handle(op), C.int32_t(position), &out))
	runtime.KeepAlive(o)
	return s.wrap(&out)
}

func (o *adamW) Renew() {
	const op = "AdamW.Renew"
	outsideCapture(op, "steps do it themselves")
	check(op, C.dt_adamw_renew(o.handle(op)))
	runtime.KeepAlive(o)
}

func (o *adamW) ExposeGrad() {
	check("AdamW.ExposeGrad", C.dt_adamw_expose_grad(o.handle("AdamW.ExposeGrad")))
	runtime.KeepAlive(o)
}

func (o *adamW) ZeroGrad() {
	check("AdamW.ZeroGrad", C.dt_adamw_zero_grad(o.handle("AdamW.ZeroGrad")))
	if r := capturing(); r != nil {
		r.note("AdamW.ZeroGrad", nil, o.h)
	}
	runtime.KeepAlive(o)
}

func (o *adamW) Buffer(s *Scope, which native.Buffer) *Tensor {
	s.cmode()
	var out C.dt_out
	check("AdamW.Buffer", C.dt_adamw_buffer(o.handle("AdamW.Buffer"), C.int32_t(which), &out))
	runtime.KeepAlive(o)
	buffer := s.wrap(&out)
	if s.rec != nil {
		s.note("AdamW.Buffer", []*Tensor{buffer}, o.h, int(which))
	}
	return buffer
}

func (o *adamW) Averages(s *Scope) *Tensor {
	s.cmode()
	var out C.dt_out
	check("AdamW.Averages", C.dt_adamw_averages(o.handle("AdamW.Averages"), &out))
	runtime.KeepAlive(o)
	averages := s.wrap(&out)
	if s.rec != nil {
		s.note("AdamW.Averages", []*Tensor{averages}, o.h)
	}
	return averages
}

func (o *adamW) Snapshot(s *Scope) []*Tensor {
	s.cmode()
	outsideCapture("AdamW.Snapshot", readsBack)
	var out [5]C.dt_out
	check("AdamW.Snapshot", C.dt_adamw_snapshot(o.handle("AdamW.Snapshot"), &out[0]))
	runtime.KeepAlive(o)
	n := len(out)
	if out[3].t == nil {
		n = 3
	}
	return s.wrapAll(out[:n])
}

func hostBytes(t *Tensor) []byte {
	h, size := t.handle("HostBytes"), t.NumElements()*t.dtype.Size()
	outsideCapture("HostBytes", readsBack)
	if size == 0 {
		return nil
	}
	var p unsafe.Pointer
	check("HostBytes", C.dt_host_bytes(h, cbool(false), &p), t)
	if p == nil {
		misuse("HostBytes", "the tensor is not contiguous on the CPU")
	}
	return unsafe.Slice((*byte)(p), size)
}
