package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTry(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"file", "folder/", "."} {
		if err := Try(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := names(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}
	if err := Try(filepath.Join(dir, "none", "x")); err == nil ||
		!strings.Contains(err.Error(), "write "+dir+"/none/x: no such file or directory") {
		t.Errorf("in a folder that is missing: %v", err)
	}
	// Root may write anywhere but where the kernel does not let it.
	if err := Try("/proc/x"); err == nil {
		t.Error("in /proc: no error")
	}
}

func TestTryFolder(t *testing.T) {
	dir := t.TempDir()
	put(t, "", dir, "file")
	for _, name := range []string{"", "new", "new/er/"} {
		if err := TryFolder(filepath.Join(dir, name)); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if got := names(t, dir); got != "file" {
		t.Errorf("left behind: %s", got)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "file", "x"): "write " + filepath.Join(dir, "file") + ": not a directory",
		"/proc/x/y":                     "write /proc/x/y: ",
	} {
		if err := TryFolder(path); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	// The error knows the path, for whoever says whose it is.
	if e := (*fs.PathError)(nil); !errors.As(TryFolder("/proc/x/y"), &e) || e.Path != "/proc/x/y" {
		t.Errorf("%+v", e)
	}
}

func TestPlace(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	put(t, "new", in("made"), "x")
	if err := os.Mkdir(in("empty"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := Place(in("made"), in("empty")+"/"); err != nil || names(t, in("empty")) != "x" {
		t.Errorf("onto an empty folder: %v, it holds %q", err, names(t, in("empty")))
	}
	put(t, "new", in("made"), "y")
	err := Place(in("made"), in("empty"))
	if err == nil || !strings.HasSuffix(err.Error(), "the folder is not empty") || names(t, in("empty")) != "x" {
		t.Errorf("onto a full folder: %v", err)
	}
	put(t, "old", in("file"))
	put(t, "new", in("made.npz"))
	if err := Place(in("made.npz"), in("file")); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(in("file")); err != nil || string(b) != "new" {
		t.Errorf("a file: %q, %v", b, err)
	}
}
