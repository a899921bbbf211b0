package torch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// LibraryVar in the environment names libditshim.so, or the folder it is in. Where it is set, no other place is
// looked at.
const LibraryVar = "DITRUN_LIB"

const shimName = "libditshim.so"

// findShim returns the path of the shim, or an error that says where it was looked for, and the ways out.
func findShim() (string, error) {
	if named := os.Getenv(LibraryVar); named != "" {
		path := named
		if info, err := os.Stat(named); err == nil && info.IsDir() {
			path = filepath.Join(named, shimName)
		}
		if !isFile(path) {
			return "", fmt.Errorf("%s=%s: no %s there: want its path or its folder, such as PREFIX/lib of "+
				"`make install` or build/lib of the source tree", LibraryVar, named, shimName)
		}
		return filepath.Abs(path) // dlopen would look up a bare name elsewhere
	}
	dirs := shimDirs()
	for _, dir := range dirs {
		if path := filepath.Join(dir, shimName); isFile(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s not found: looked in %s: run `make build` or `make install` in the source of "+
		"ditrun, or set %s to the folder that holds it", shimName, strings.Join(dirs, ", "), LibraryVar)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// shimDirs lists where the shim may be: beside the program or in its ../lib, which is so for one that is installed or
// packed; in the source tree that this package was compiled from; in the prefix of the ditrun command; and in the
// usual prefixes, for programs that were built from the module cache.
func shimDirs() []string {
	var dirs []string
	add := func(dir string) {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		add(filepath.Dir(exe))
		add(filepath.Join(filepath.Dir(exe), "..", "lib"))
	}
	// With -trimpath the path is not absolute.
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		add(filepath.Join(filepath.Dir(file), "..", "build", "lib"))
	}
	if command, err := exec.LookPath("ditrun"); err == nil {
		if real, err := filepath.EvalSymlinks(command); err == nil {
			add(filepath.Join(filepath.Dir(real), "..", "lib"))
		}
	}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		add(filepath.Join(home, ".local", "lib"))
	}
	add("/usr/local/lib")
	return dirs
}
