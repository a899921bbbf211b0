package torch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// emptyShim makes a file of the shim's name.
func emptyShim(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, shimName)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestShimIsWhereTheVariableSays(t *testing.T) {
	want := emptyShim(t, t.TempDir())
	for _, named := range []string{want, filepath.Dir(want)} {
		t.Setenv(LibraryVar, named)
		if got, err := findShim(); got != want || err != nil {
			t.Errorf("%s=%s: %q, %v", LibraryVar, named, got, err)
		}
	}
	t.Chdir(filepath.Dir(want))
	t.Setenv(LibraryVar, shimName)
	if got, err := findShim(); got != want || err != nil {
		t.Errorf("a name alone: %q, %v", got, err)
	}
	// Nowhere else, then.
	for _, named := range []string{t.TempDir(), filepath.Join(t.TempDir(), "gone")} {
		t.Setenv(LibraryVar, named)
		if got, err := findShim(); err == nil || !strings.Contains(err.Error(), "DITRUN_LIB="+named+": no "+shimName) {
			t.Errorf("%s=%s: %q, %v", LibraryVar, named, got, err)
		}
	}
}

func TestShimIsInThePrefixOfTheCommand(t *testing.T) {
	prefix, home := t.TempDir(), t.TempDir()
	for _, dir := range []string{"bin", "lib", "elsewhere"} {
		if err := os.Mkdir(filepath.Join(prefix, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(prefix, "bin", "ditrun"), []byte("#!/bin/sh\n"), 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(prefix, "elsewhere", "ditrun")
	if err := os.Symlink(filepath.Join("..", "bin", "ditrun"), link); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("PATH", filepath.Dir(link))
	dirs := shimDirs()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Dir(self)
	want := []string{beside, filepath.Join(filepath.Dir(beside), "lib"), filepath.Join(prefix, "lib"),
		filepath.Join(home, ".local", "lib"), "/usr/local/lib"}
	dirs = slices.DeleteFunc(dirs, func(dir string) bool { // the source tree, if its path was compiled in
		return strings.HasSuffix(dir, filepath.Join("build", "lib"))
	})
	if got := strings.Join(dirs, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("looked in\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}
