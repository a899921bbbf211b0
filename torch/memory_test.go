package torch

import (
	"strings"
	"testing"
)

// TestOutOfMemoryIsOneLine on what libtorch 2.1 to 2.11 and its libraries said.
func TestOutOfMemoryIsOneLine(t *testing.T) {
	const advice = " If reserved but unallocated memory is large try setting " +
		"PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for Memory " +
		"Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
	for _, c := range []struct{ said, want string }{
		{"CUDA out of memory. Tried to allocate 16.00 GiB. GPU 0 has a total capacity of 140.06 GiB of " +
			"which 3.12 GiB is free. Process 2828790 has 136.94 GiB memory in use. Of the allocated memory " +
			"128.03 GiB is allocated by PyTorch, and 216.00 MiB is reserved by PyTorch but unallocated." + advice,
			"out of memory on cuda:0: asked for 16.00 GiB, 3.12 GiB of 140.06 GiB are free, 216.00 MiB more in " +
				"pieces between tensors"},
		{"CUDA out of memory. Tried to allocate 4.22 GiB. GPU 3 has a total capacity of 14.56 GiB of which " +
			"3.51 GiB is free. Process 58 has 2.98 GiB memory in use. Process 6490 has 148.00 MiB memory " +
			"in use. Including non-PyTorch memory, this process has 7.92 GiB memory in use. Of the " +
			"allocated memory 4.78 GiB is allocated by PyTorch, and 3.00 GiB is reserved by PyTorch but " +
			"unallocated." + advice,
			"out of memory on cuda:3: asked for 4.22 GiB, 3.51 GiB of 14.56 GiB are free, 3.00 GiB more in pieces " +
				"between tensors, other processes hold 2.98 GiB and 148.00 MiB"},
		{"CUDA out of memory. Tried to allocate 90.00 MiB. GPU 0 has a total capacity of 15.92 GiB of " +
			"which 0 bytes is free. Of the allocated memory 13.73 GiB is allocated by PyTorch, with 46.00 " +
			"MiB allocated in private pools (e.g., CUDA Graphs), and 736.86 MiB is reserved by PyTorch but " +
			"unallocated." + advice,
			"out of memory on cuda:0: asked for 90.00 MiB, 0 bytes of 15.92 GiB are free, 736.86 MiB more in " +
				"pieces between tensors"},
		{"CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacty of 23.69 GiB of which " +
			"541.00 MiB is free. Including non-PyTorch memory, this process has 22.89 GiB memory in use. " +
			"Of the allocated memory 21.48 GiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch " +
			"but unallocated." + advice,
			"out of memory on cuda:0: asked for 20.00 MiB, 541.00 MiB of 23.69 GiB are free"},
		{"CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call, so " +
			"the stacktrace below might be incorrect.",
			"out of memory on the GPU"},
		{"CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
			"out of memory on the GPU: CUBLAS_STATUS_ALLOC_FAILED"},
		{"cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "out of memory on the GPU: CUDNN_STATUS_ALLOC_FAILED"},
		{"[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to " +
			"allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)",
			"out of memory: asked for 4503599627370496 bytes"},
		{"out of memory", "out of memory"}, // std::bad_alloc
	} {
		if got := outOfMemory(c.said); got != c.want || strings.Contains(got, "\n") {
			t.Errorf("%s\n\tgives %s\n\twant  %s", c.said, got, c.want)
		}
	}
}
