package torch

// #include "dt.h"
import "C"

// Traffic counts what makes a step wait for the host or the host for a step.
type Traffic struct {
	Uploads   int64 // copies from the host to a device
	ReadBacks int64 // copies from a device to the host, for each of which the host waits for what comes before it
	Waits     int64 // [Scope.Synchronize] and other waits
}

// Sub returns what was added since the earlier count.
func (t Traffic) Sub(earlier Traffic) Traffic {
	return Traffic{t.Uploads - earlier.Uploads, t.ReadBacks - earlier.ReadBacks, t.Waits - earlier.Waits}
}

// Counts returns the traffic of this process so far. On the CPU nothing has to travel, and yet the same calls count as
// on a GPU: [From], [Scope.FromBytes], [Tensor.CopyFromBytes] and each part of [Tensor.Fill] are uploads; [Data],
// [Tensor.Bytes], [Tensor.Item], and indices that [Scope.IndexSelect] or [Scope.Embedding] has to read for their range,
// are read-backs.
func Counts() Traffic {
	if Available() != nil {
		return Traffic{}
	}
	c := C.dt_counts()
	return Traffic{int64(c.uploads), int64(c.read_backs), int64(c.waits)}
}
