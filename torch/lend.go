package torch

// #include "dt.h"
import "C"

import "github.com/ditrun/ditrun/torch/internal/native"

// Packages optim and dist get here what no other package is to see.
func init() {
	native.Lend(native.Lent[*Scope, *Tensor, Device]{
		NewAdamW: newAdamW, HostBytes: hostBytes,
		NewStore: newStore, NewGloo: newGloo, NewNCCL: newNCCL,
		NCCLID: ncclID, NCCLVersion: ncclVersion, GPUAddress: gpuAddress, Copy: copyTensor,
	})
}

// The numbers of package native are those of the shim. Where one differs this does not compile: the array has one
// element.
var _ = [1]struct{}{}[(native.EMA-C.DT_ADAMW_EMA)|(native.ExpAvg-C.DT_ADAMW_EXP_AVG)|
	(native.ExpAvgSq-C.DT_ADAMW_EXP_AVG_SQ)|(native.StepCount-C.DT_ADAMW_STEP)|(native.Weights-C.DT_ADAMW_WEIGHTS)|
	(native.Sum-C.DT_SUM)|(native.Min-C.DT_MIN)|(native.Max-C.DT_MAX)]
