package catalog

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

// TestSpecialFilesAreBadPictures: what is listed among pictures and is no file is one bad picture like others.
func TestSpecialFilesAreBadPictures(t *testing.T) {
	dir, want := datatest.SpecialFiles(t)
	at := func(name string) string { return filepath.Join(dir, "a", name) }
	labels := filepath.Join(t.TempDir(), "labels.txt")
	if err := os.WriteFile(labels, []byte(strings.Repeat("x\n", 7)), 0o666); err != nil {
		t.Fatal(err)
	}
	for location, o := range map[string]Options{dir: {}, filepath.Join(dir, "a"): {Labels: labels}} {
		src, err := Open(t.Context(), location, o)
		if err != nil {
			t.Fatal(err)
		}
		var bad []string
		good := 0
		for i := range src.Len() {
			_, err := src.Image(i)
			if errors.As(err, new(*BadPicture)) {
				bad = append(bad, err.Error())
			} else if err != nil {
				t.Error(err)
			} else {
				good++
			}
		}
		if good+len(want) != src.Len() || good < 2 || !slices.Equal(bad, want) {
			t.Errorf("%s: %d good pictures of %d, bad ones\n%s\nwant\n%s", location, good, src.Len(),
				strings.Join(bad, "\n"), strings.Join(want, "\n"))
		}
		src.Close()
	}
	// A FIFO that takes the place of a picture does not hold up who opens it; nor does one that is opened itself.
	src, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := errors.Join(os.Remove(at("0.png")), syscall.Mkfifo(at("0.png"), 0o666)); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Image(0); err == nil || !strings.Contains(err.Error(), "changed since it was listed") {
		t.Errorf("a picture that became a FIFO: %v", err)
	}
	for name, want := range map[string]string{"3.png": "a FIFO, want a file", "1.png": "no such file",
		"4.png": "a device, want a file"} {
		if _, err := Open(t.Context(), at(name), Options{}); err == nil ||
			!strings.Contains(err.Error(), "open "+at(name)+": "+want) {
			t.Errorf("%s: error %v, want %s", name, err, want)
		}
	}
	tars := datatest.WriteFiles(t, map[string][]byte{"a.tar": nil})
	if err := os.Symlink("nothing", filepath.Join(tars, "b.tar")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), tars, Options{}); err == nil ||
		!strings.Contains(err.Error(), "open "+filepath.Join(tars, "b.tar")+
			": a link to nothing: there is no nothing") {
		t.Errorf("an archive that is a dead link: %v", err)
	}
}
