package torch

// #cgo CFLAGS: -std=gnu11 -O2
// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "load.h"
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"unsafe"
)

// library is the result of opening the shim, done once.
var library struct {
	once    sync.Once
	err     error
	path    string
	cudaWhy string
}

// Available opens libtorch if that has not been done and returns nil, or an error that says what
// was looked for, where, and the ways out.
func Available() error {
	library.once.Do(func() { library.err = load() })
	return library.err
}

func load() error {
	var tried []string
	for _, dir := range libraryDirs() {
		path := filepath.Join(dir, "libditshim.so")
		if _, err := os.Stat(path); err != nil {
			tried = append(tried, path)
			continue
		}
		cpath := C.CString(path)
		msg := C.dt_load(cpath)
		C.free(unsafe.Pointer(cpath))
		if msg != nil {
			return fmt.Errorf("load %s: %s: run `make build` again, or reinstall", path, C.GoString(msg))
		}
		if got := int(C.dt_abi_version()); got != int(C.DT_ABI) {
			return fmt.Errorf("load %s: it speaks version %d of the binding, this program version %d: run `make "+
				"build` again", path, got, int(C.DT_ABI))
		}
		library.path = path
		library.cudaWhy = C.GoString(C.dt_init())
		return nil
	}
	return fmt.Errorf("libditshim.so not found: looked for %s: run `make build` in the source tree",
		strings.Join(tried, " and "))
}

// libraryDirs lists where the shim may be: beside an installed or packed binary, or in the tree
// this package was compiled from.
func libraryDirs() []string {
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		dirs = append(dirs, filepath.Join(filepath.Dir(exe), "..", "lib"))
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		dirs = append(dirs, filepath.Join(filepath.Dir(file), "..", "build", "lib"))
	}
	return dirs
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
