package torch

// #include "shim/dt.h"
// #cgo noescape dt_adamw_step
// #cgo nocallback dt_adamw_step
// #cgo noescape dt_adamw_last_backward
// #cgo nocallback dt_adamw_last_backward
// #cgo noescape dt_adamw_missing
// #cgo nocallback dt_adamw_missing
// #cgo noescape dt_adamw_averages
// #cgo nocallback dt_adamw_averages
// #cgo noescape dt_adamw_buffer
// #cgo nocallback dt_adamw_buffer
// #cgo noescape dt_adamw_snapshot
// #cgo nocallback dt_adamw_snapshot
import "C"

import (
	"runtime"
	"strings"
	"unsafe"
)

// AdamW is the fused optimizer behind package optim. Use that package.
type AdamW struct {
	h      C.dt_adamw
	params []*Tensor
	cfg    AdamWConfig
	net    runtime.Cleanup
}

// AdamWConfig holds AdamW's constants and where the parameters lie in the flat buffer, in elements:
// those that require gradients in the buckets, one behind the other, the others behind them.
type AdamWConfig struct {
	Beta1, Beta2, Eps, WeightDecay float64

	Names   []string // of the parameters, for errors
	Offsets []int    // of each parameter
	Buckets []int    // sizes
	Total   int
	Group   *Group // nil alone
	Plain   bool   // each rank holds and updates everything
}

// AdamWStep is described at optim.StepOptions.
type AdamWStep struct {
	LR, MaxNorm, EMADecay float64
	Skip                  *Tensor
	UpdateNorm            bool
}

// An AdamWBuffer is one of the optimizer's buffers.
type AdamWBuffer int32

// The buffers hold this rank's shares of the buckets; behind them, averages of the other parameters.
const (
	AdamWEMA      AdamWBuffer = C.DT_ADAMW_EMA
	AdamWExpAvg   AdamWBuffer = C.DT_ADAMW_EXP_AVG
	AdamWExpAvgSq AdamWBuffer = C.DT_ADAMW_EXP_AVG_SQ
	AdamWStepNum  AdamWBuffer = C.DT_ADAMW_STEP
)

// NewAdamW makes the optimizer of params (Float32, on one device) and moves their storage into one
// flat buffer.
func NewAdamW(params []*Tensor, cfg AdamWConfig) (o *AdamW, err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	defer recoverError(&err)
	hs := handles("NewAdamW", params)
	o = &AdamW{params: params, cfg: cfg}
	offsets, buckets := int64s(cfg.Offsets), int64s(cfg.Buckets)
	constants := C.dt_adamw_config{beta1: C.double(cfg.Beta1), beta2: C.double(cfg.Beta2), eps: C.double(cfg.Eps),
		weight_decay: C.double(cfg.WeightDecay)}
	check("NewAdamW", C.dt_adamw_new(first(hs), C.int32_t(len(hs)), unsafe.SliceData(offsets),
		unsafe.SliceData(buckets), C.int32_t(len(buckets)), C.int64_t(cfg.Total), constants,
		o.group("NewAdamW"), cbool(cfg.Plain), &o.h))
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
	o.group(op) // which the optimizer uses too
	return o.h
}

func (o *AdamW) group(op string) C.dt_group {
	if o.cfg.Group == nil {
		return nil
	}
	return o.cfg.Group.handle(op)
}

// LastBackward is described at optim.AdamW.LastBackward.
func (o *AdamW) LastBackward() {
	check("LastBackward", C.dt_adamw_last_backward(o.handle("LastBackward")))
	runtime.KeepAlive(o)
}

// complete refuses a step of a group in which trained parameters have no gradient.
func (o *AdamW) complete(op string) {
	if o.cfg.Group == nil {
		return
	}
	positions := make([]C.int32_t, len(o.params))
	var n C.int32_t
	check(op, C.dt_adamw_missing(o.handle(op), unsafe.SliceData(positions), &n))
	if n > 0 {
		var names []string
		for _, i := range positions[:min(n, 12)] {
			names = append(names, o.cfg.Names[i])
		}
		misuse(op, "%d trained parameters have no gradient, which all ranks must have for all: %s", n,
			strings.Join(names, ", "))
	}
}

// Step is described at optim.AdamW.Step. It returns the norm of the gradients, whether the step was
// skipped and the norm of the change, nil unless asked for.
func (o *AdamW) Step(s *Scope, opt AdamWStep) (norm, skipped, update *Tensor) {
	s.cmode()
	o.complete("AdamW.Step")
	c := C.dt_adamw_options{lr: C.double(opt.LR), max_norm: C.double(opt.MaxNorm), ema_decay: C.double(opt.EMADecay),
		skip: opt.Skip.handleOrNil("AdamW.Step"), update_norm: cbool(opt.UpdateNorm)}
	var out [3]C.dt_out
	check("AdamW.Step", C.dt_adamw_step(o.handle("AdamW.Step"), &c, &out[0]))
	runtime.KeepAlive(o)
	runtime.KeepAlive(opt.Skip)
	if out[2].t != nil {
		update = s.wrap(&out[2])
	}
	return s.wrap(&out[0]), s.wrap(&out[1]), update
}

// ExposeGrad is described at optim.AdamW.ExposeGrad.
func (o *AdamW) ExposeGrad() {
	check("AdamW.ExposeGrad", C.dt_adamw_expose_grad(o.handle("AdamW.ExposeGrad")))
	runtime.KeepAlive(o)
}

// ZeroGrad forgets the gradients.
func (o *AdamW) ZeroGrad() {
	check("AdamW.ZeroGrad", C.dt_adamw_zero_grad(o.handle("AdamW.ZeroGrad")))
	runtime.KeepAlive(o)
}

// Buffer returns a buffer, not a copy of it.
func (o *AdamW) Buffer(s *Scope, which AdamWBuffer) *Tensor {
	s.cmode()
	var out C.dt_out
	check("AdamW.Buffer", C.dt_adamw_buffer(o.handle("AdamW.Buffer"), C.int32_t(which), &out))
	runtime.KeepAlive(o)
	return s.wrap(&out)
}

// Averages returns the averages of all parameters as the weights lie: gathered from the ranks where
// they hold shares, else the buffer itself.
func (o *AdamW) Averages(s *Scope) *Tensor {
	s.cmode()
	var out C.dt_out
	check("AdamW.Averages", C.dt_adamw_averages(o.handle("AdamW.Averages"), &out))
	runtime.KeepAlive(o)
	return s.wrap(&out)
}

// Snapshot copies the step count, this rank's moments and, on the first rank, the weights and the
// averages of all parameters to host memory. The next snapshot overwrites them.
func (o *AdamW) Snapshot(s *Scope) []*Tensor {
	s.cmode()
	var out [5]C.dt_out
	check("AdamW.Snapshot", C.dt_adamw_snapshot(o.handle("AdamW.Snapshot"), &out[0]))
	runtime.KeepAlive(o)
	n := len(out)
	if out[3].t == nil {
		n = 3
	}
	return s.wrapAll(out[:n])
}

// HostBytes returns the memory of t, a contiguous tensor on the CPU: it is not to be used after t.
func (t *Tensor) HostBytes() []byte {
	h, size := t.handle("HostBytes"), t.NumElements()*t.dtype.Size()
	if size == 0 {
		return nil
	}
	var p unsafe.Pointer
	check("HostBytes", C.dt_host_bytes(h, &p), t)
	if p == nil {
		misuse("HostBytes", "the tensor is not contiguous on the CPU")
	}
	return unsafe.Slice((*byte)(p), size)
}
