package torch

// #include <stdlib.h>
// #include "dt.h"
import "C"

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"
)

// A Timing is what was measured of all the calls of one kernel of a GPU, or of one operation on the CPU.
type Timing struct {
	Name  string
	Calls int
	// Time is without that of other operations that an operation calls.
	Time time.Duration
}

// StartProfile has libtorch's profiler measure on a device: on a GPU the kernels of the whole process, on the CPU the
// operations of this thread. It ends with [StopProfile], on the same thread. What is measured takes longer meanwhile.
// It returns an *Error where libtorch cannot.
func StartProfile(dev Device) (err error) {
	defer recoverError(&err)
	check("StartProfile", C.dt_profile_start(C.dt_device(dev.index)))
	return nil
}

// StopProfile ends what [StartProfile] began on dev, and returns the timings, the longest first. What was begun on the
// device has to be done: see [Device.Synchronize].
func StopProfile(dev Device) (timings []Timing, err error) {
	defer recoverError(&err)
	var text *C.char
	check("StopProfile", C.dt_profile_stop(C.dt_device(dev.index), &text))
	defer C.free(unsafe.Pointer(text))
	for line := range strings.Lines(C.GoString(text)) {
		var t Timing
		if _, err := fmt.Sscan(line, &t.Calls, &t.Time); err != nil {
			return nil, fmt.Errorf("profile: %w", err)
		}
		t.Name = strings.TrimSpace(strings.SplitN(line, " ", 3)[2])
		timings = append(timings, t)
	}
	slices.SortStableFunc(timings, func(a, b Timing) int { return int(b.Time - a.Time) })
	return timings, nil
}
