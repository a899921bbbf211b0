package torch

// #include "dt.h"
import "C"

import (
	"fmt"
	"regexp"
	"strings"
)

// PeakMemory returns the most bytes that tensors on a GPU have taken at once since [Device.ResetPeakMemory], or since
// the process began, as PyTorch's max_memory_allocated does; 0 for the CPU, and where it is not known.
func (d Device) PeakMemory() int64 {
	if !d.IsCUDA() || Available() != nil {
		return 0
	}
	return int64(C.dt_peak_memory(C.dt_device(d.index)))
}

// ResetPeakMemory begins the time that [Device.PeakMemory] is about. It does nothing for the CPU.
func (d Device) ResetPeakMemory() {
	if d.IsCUDA() && Available() == nil {
		C.dt_reset_peak_memory(C.dt_device(d.index))
	}
}

// TotalMemory returns how many bytes a GPU has; 0 for the CPU, before it is used, and where it is not known.
func (d Device) TotalMemory() int64 {
	if !d.IsCUDA() || Available() != nil {
		return 0
	}
	return int64(C.dt_total_memory(C.dt_device(d.index)))
}

// What libtorch says when memory is out: c10/cuda/CUDACachingAllocator.cpp, c10/core/impl/alloc_cpu.cpp. Sizes are such
// as "20.00 MiB" and "512 bytes".
var (
	sizeAsked = regexp.MustCompile(`[Tt]ried to allocate ([\d.]+ \w+)`)
	// "capacty" until 2.1.
	sizesOfGPU = regexp.MustCompile(`GPU (\d+) has a total capaci?ty of ([\d.]+ \w+) of which ([\d.]+ \w+) is free`)
	sizeOfHeld = regexp.MustCompile(`Process \d+ has ([\d.]+ \w+) memory in use`)
	sizeUnused = regexp.MustCompile(`and ([\d.]+ \w+) is reserved by PyTorch but unallocated`)
	// of the libraries below libtorch
	allocFailed = regexp.MustCompile(`\w+_STATUS_ALLOC_FAILED`)
)

// outOfMemory makes one line of libtorch's words about memory that is out: what was asked for, what is free of how
// much and, where other processes have a part of it, that.
func outOfMemory(text string) string {
	asked := ""
	if m := sizeAsked.FindStringSubmatch(text); m != nil {
		asked = ": asked for " + m[1]
	}
	gpu := sizesOfGPU.FindStringSubmatch(text)
	switch {
	case gpu != nil:
		line := fmt.Sprintf("out of memory on cuda:%s%s, %s of %s are free", gpu[1], asked, gpu[3], gpu[2])
		if m := sizeUnused.FindStringSubmatch(text); m != nil && !strings.HasPrefix(m[1], "0 ") {
			line += fmt.Sprintf(", %s more in pieces between tensors", m[1])
		}
		// Where this process is not named, one of the others may be this one, under its number outside a container.
		held := sizeOfHeld.FindAllStringSubmatch(text, -1)
		if held != nil && strings.Contains(text, "this process has") {
			var sizes []string
			for _, m := range held {
				sizes = append(sizes, m[1])
			}
			line += fmt.Sprintf(", other processes hold %s", strings.Join(sizes, " and "))
		}
		return line
	case allocFailed.MatchString(text):
		return "out of memory on the GPU: " + allocFailed.FindString(text)
	case strings.Contains(text, "CUDA"):
		return "out of memory on the GPU" + asked
	}
	return "out of memory" + asked
}
