package saves

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/internal/disk"
)

// writeCheckpoint makes a checkpoint of a training run of one process: RUN/checkpoints/NNNNNNN.
func writeCheckpoint(t *testing.T, dir string, step int) string {
	t.Helper()
	path := filepath.Join(dir, StepName(step))
	if err := os.MkdirAll(path, 0o777); err != nil {
		t.Fatal(err)
	}
	f := Folder{Step: step, World: 1}
	for _, name := range f.names() {
		file, err := Write(path, name, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, name, step)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Describe(path, name); again != file || err != nil {
			t.Fatalf("written as %+v, read as %+v, %v", file, again, err)
		}
		f.Files = append(f.Files, file)
	}
	text, err := disk.MarshalSealed(f)
	if err == nil {
		err = os.WriteFile(filepath.Join(path, StateName), text, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func flipByte(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[(at+len(b))%len(b)] ^= 1
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// A reader finds a checkpoint whatever became of the link `latest`, and says which where the link does not.
func TestLatest(t *testing.T) {
	const using = "/0000020, the newest whole checkpoint: "
	link := func(to string) func(string) error {
		return func(path string) error { return os.Symlink(to, path) }
	}
	copied := func(step string) func(string) error {
		return func(path string) error { return os.CopyFS(path, os.DirFS(filepath.Join(filepath.Dir(path), step))) }
	}
	file := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o666) }
	}
	for _, c := range []struct {
		what       string
		make       func(latest string) error
		want, note string
	}{
		{"a link", link("0000020"), LatestName, ""},
		{"a link to an older one", link("0000010"), LatestName, ""},
		{"nothing", func(string) error { return nil }, "0000020", using + "there is no latest"},
		{"a link to nothing", link("0000040"), "0000020", using + "latest leads to 0000040, where nothing is"},
		{"a link to one that is not whole", link("0000030"), LatestName, ""},
		{"an old copy", copied("0000010"), "0000020", using + "latest is a folder, not a link"},
		{"a copy", copied("0000020"), "0000020", ""},
		{"a file", file("x"), "0000020", using + "latest is a file, not a link"},
		{"a file that says so", file("0000020\n"), "0000020", ""},
	} {
		dir := t.TempDir()
		for _, step := range []int{10, 20, 30} {
			writeCheckpoint(t, dir, step)
		}
		if err := os.Remove(filepath.Join(dir, "0000030", EMAName)); err != nil {
			t.Fatal(err)
		}
		if err := c.make(filepath.Join(dir, LatestName)); err != nil {
			t.Fatal(err)
		}
		path, note, err := Latest(dir)
		if c.note != "" {
			c.note = "using " + dir + c.note
		}
		if err != nil || path != filepath.Join(dir, c.want) || note != c.note {
			t.Errorf("%s: %s, %q, %v, want %s, %q", c.what, path, note, err, c.want, c.note)
		}
	}
	if _, _, err := Latest(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder: error %v", err)
	}
	if _, _, err := Latest("/no/such/folder"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: error %v", err)
	}
}

func TestNewest(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []int{10, 20, 30} {
		writeCheckpoint(t, dir, step)
	}
	flipByte(t, filepath.Join(dir, "0000030", OptimizerName(0, 1)), -1)
	flipByte(t, filepath.Join(dir, "0000020", StateName), 5)
	path, damaged, err := Newest(dir)
	if path != filepath.Join(dir, "0000010") || err != nil || len(damaged) != 2 ||
		!strings.Contains(damaged[0].Error(), "0000030: optimizer-000-of-001.safetensors: sha256") ||
		!strings.Contains(damaged[1].Error(), "0000020: state.json: ") {
		t.Errorf("%s, %v, %v", path, damaged, err)
	}
	if path, _, err := newest(dir, (*Folder).Present); path != filepath.Join(dir, "0000030") || err != nil {
		t.Errorf("by size: %s, %v", path, err)
	}
	// What cannot be read for want of something else is not damaged.
	full := func(*Folder) error { return &fs.PathError{Op: "open", Path: "x", Err: syscall.EMFILE} }
	if path, _, err := newest(dir, full); path != "" || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("with too many files open: %q, %v", path, err)
	}
}

// A folder that was renamed to another step is not one of that step.
func TestFolderOfAnotherStep(t *testing.T) {
	dir := t.TempDir()
	if err := os.Rename(writeCheckpoint(t, dir, 10), filepath.Join(dir, "0000100")); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFolder(filepath.Join(dir, "0000100")); err == nil || !strings.Contains(err.Error(),
		"it is of step 10, in the folder of step 100") {
		t.Errorf("error %v", err)
	}
	if err := os.Rename(filepath.Join(dir, "0000100"), filepath.Join(dir, "best")); err != nil {
		t.Fatal(err)
	}
	if f, err := ReadFolder(filepath.Join(dir, "best")); err != nil || f.Step != 10 || f.Whole() != nil {
		t.Errorf("under a name of the user's: %v", err)
	}
}
