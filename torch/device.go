package torch

// #include "dt.h"
import "C"

import (
	"fmt"
	"strconv"
	"strings"
)

// A Device is where a tensor lives: [CPU] or a GPU made by [CUDA].
type Device struct {
	index int32 // -1 is the CPU
}

// CPU is the processor.
var CPU = Device{-1}

// CUDA returns GPU i.
func CUDA(i int) Device { return Device{int32(i)} }

// IsCUDA reports whether d is a GPU.
func (d Device) IsCUDA() bool { return d.index >= 0 }

// String returns "cpu" or "cuda:N", as [ParseDevice] reads it.
func (d Device) String() string {
	if d.index < 0 {
		return "cpu"
	}
	return fmt.Sprintf("cuda:%d", d.index)
}

// Name returns what the driver calls a GPU, such as "NVIDIA H200"; "" for the CPU, and where it does not say.
func (d Device) Name() string {
	if !d.IsCUDA() || Available() != nil {
		return ""
	}
	var name [128]C.char
	C.dt_cuda_name(C.int32_t(d.index), &name[0], C.int32_t(len(name)))
	return C.GoString(&name[0])
}

// ParseDevice reads "cpu", "cuda", "cuda:N" or "auto" (the first GPU where one is usable, else the
// CPU). A GPU that cannot be used is an error that says why.
func ParseDevice(name string) (Device, error) {
	kind, num, indexed := strings.Cut(name, ":")
	switch {
	case name == "cpu":
		return CPU, nil
	case name == "auto":
		if n, _ := CUDAStatus(); n > 0 {
			return CUDA(0), nil
		}
		return CPU, nil
	case kind == "cuda":
		i := 0
		if indexed {
			var err error
			if i, err = strconv.Atoi(num); err != nil || i < 0 {
				return CPU, fmt.Errorf("device %q: want auto, cpu, cuda or cuda:N", name)
			}
		}
		n, why := CUDAStatus()
		if why != nil {
			return CPU, fmt.Errorf("device %q: CUDA is not usable: %w", name, why)
		}
		if i >= n {
			return CPU, fmt.Errorf("device %q: this machine has %d GPU(s), numbered from 0", name, n)
		}
		return CUDA(i), nil
	}
	return CPU, fmt.Errorf("device %q: want auto, cpu, cuda or cuda:N", name)
}

// Synchronize waits until all work given to the scope's device is done. It returns at once on the CPU.
func (s *Scope) Synchronize() {
	outsideCapture("Synchronize", waits)
	check("Synchronize", C.dt_synchronize(C.dt_device(s.dev.index)))
}

// Synchronize is that of a scope, for callers that have none at hand. Libtorch must be loaded.
func (d Device) Synchronize() (err error) {
	defer recoverError(&err)
	outsideCapture("Synchronize", waits)
	if e := C.dt_synchronize(C.dt_device(d.index)); e != nil {
		return asError("Synchronize", e, nil)
	}
	return nil
}
