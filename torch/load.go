package torch

// #cgo CFLAGS: -std=gnu11 -O2
// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "load.h"
import "C"

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"unsafe"
)

// library is the result of opening the shim, done once.
var library struct {
	once    sync.Once
	err     error
	path    string
	cudaWhy string
	plugin  error // why libditcuda.so is not in use
}

// Available opens libtorch, through libditshim.so, if that has not been done. It returns nil or an error that says what
// was looked for, where, and the ways out. It looks for libditshim.so where [LibraryVar] says, else beside the program,
// in ../lib of it, in the source tree that this package was compiled from, and where `make install` puts it: ../lib of
// the ditrun in PATH, ~/.local/lib and /usr/local/lib.
func Available() error {
	library.once.Do(func() { library.err = load() })
	return library.err
}

func load() error {
	path, err := findShim()
	if err != nil {
		return err
	}
	cpath := C.CString(path)
	msg := C.dt_load(cpath)
	C.free(unsafe.Pointer(cpath))
	const again = "run `make build`, or `make install`, in a source tree of this program's version"
	if msg != nil {
		return fmt.Errorf("load %s: %s: %s", path, C.GoString(msg), again)
	}
	if got := int(C.dt_abi_version()); got != int(C.DT_ABI) {
		return fmt.Errorf("load %s: it speaks version %d of the binding, this program version %d: %s", path, got,
			int(C.DT_ABI), again)
	}
	library.path = path
	library.cudaWhy = C.GoString(C.dt_init())
	if library.cudaWhy != "" {
		library.plugin = errors.New("CUDA is not usable: " + library.cudaWhy)
	} else {
		library.plugin = OpenPlugin(filepath.Join(filepath.Dir(path), pluginName))
	}
	return nil
}

// pluginName is what `make build` puts beside the shim, where it could fetch CUDA's headers.
const pluginName = "libditcuda.so"

// OpenPlugin makes the library at path the one in use in place of the libditcuda.so beside the shim, or returns why it
// cannot be used; then none is. It is for tests. [Available] must have succeeded.
func OpenPlugin(path string) error {
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	if why := C.GoString(C.dt_plugin_open(cpath)); why != "" {
		return errors.New(why)
	}
	return nil
}

// PluginStatus is about libditcuda.so, which lies beside the shim. Errors say why it is not in use, so that
// [Scope.Capture] fails on a GPU, and why its kernels cannot be started on dev, such as on a GPU before the A100.
// Without them everything computes the same, but slower.
func PluginStatus(dev Device) (graphs, kernels error) {
	if err := Available(); err != nil {
		return err, err
	}
	if e := C.dt_plugin_check_kernels(C.dt_device(dev.index)); e != nil {
		kernels = errors.New(asError("PluginStatus", e, nil).Msg)
	}
	return library.plugin, kernels
}

// Library returns the path of the opened shim, "" before [Available] succeeded.
func Library() string { return library.path }

// BuildInfo returns the version of libtorch, such as "libtorch 2.11.0", or "" without one.
func BuildInfo() string {
	if Available() != nil {
		return ""
	}
	return C.GoString(C.dt_build_info())
}

// CUDAStatus returns the number of usable GPUs; where it is zero, the error says why.
func CUDAStatus() (n int, why error) {
	if err := Available(); err != nil {
		return 0, err
	}
	if library.cudaWhy != "" {
		return 0, errors.New(library.cudaWhy)
	}
	return int(C.dt_cuda_count()), nil
}

// SetNumThreads sets how many threads an operation on the CPU may use. Call it once, before work.
func SetNumThreads(n int) {
	if Available() == nil && n > 0 {
		C.dt_set_num_threads(C.int32_t(n))
	}
}

// NumThreads returns how many threads an operation on the CPU may use.
func NumThreads() int {
	if Available() != nil {
		return 0
	}
	return int(C.dt_num_threads())
}

// Live returns how many tensor handles exist, for tests and logs.
func Live() int64 {
	if Available() != nil {
		return 0
	}
	return int64(C.dt_live_tensors())
}
