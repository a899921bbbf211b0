package torch

// #include "dt.h"
import "C"

import (
	"fmt"
	"runtime"
)

// AttentionBackend names the kernels that libtorch takes for [Scope.ScaledDotProductAttention] of q, k and v
// [N, heads, T, d] on this device: flash, efficient, cudnn, or math, which is the plain composition. That depends on
// their shapes, their type and whether they require gradients.
func (s *Scope) AttentionBackend(q, k, v *Tensor) string {
	const op = "AttentionBackend"
	var choice C.int32_t
	check(op, C.dt_attention_choice(s.cmode(), q.handle(op), k.handle(op), v.handle(op), &choice), q, k, v)
	for _, t := range []*Tensor{q, k, v} {
		runtime.KeepAlive(t)
	}
	names := []string{"math", "flash", "efficient", "cudnn"} // at::SDPBackend
	if choice < 0 || int(choice) >= len(names) {
		return fmt.Sprintf("backend %d", choice)
	}
	return names[choice]
}
