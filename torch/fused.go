package torch

// #include <stdlib.h>
// #include "dt.h"
import "C"

import "unsafe"

// SetFused says whether operations that are several in PyTorch, such as [Scope.AdaLayerNorm], may compute in one pass:
// on a GPU by the kernels of libditcuda.so, on the CPU by loops of their own. They do by default. Otherwise each is the
// plain composition of libtorch's operations, whose results are the same but for rounding. It holds for the whole
// process: call it before work begins.
func SetFused(on bool) {
	if Available() == nil {
		C.dt_set_fused(cbool(on))
	}
}

// Fused is what [SetFused] said.
func Fused() bool { return Available() == nil && C.dt_fused() != 0 }

// TakeWarnings returns what went wrong without an error since the last call. Before a kernel is used on a GPU for the
// first time it computes on random numbers, and where it does not give what libtorch gives, it is not used there: a
// warning names kernel, GPU and difference. Call it after the first step.
func TakeWarnings() (texts []string) {
	if Library() == "" { // nothing was computed yet
		return nil
	}
	for {
		text := C.dt_take_warning()
		if text == nil {
			return texts
		}
		texts = append(texts, C.GoString(text))
		C.free(unsafe.Pointer(text))
	}
}
