package stream

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
)

// badTree is a folder of three classes with bad pictures of every kind: class b has no other ones.
func badTree(t *testing.T) (dir string, bad []string) {
	t.Helper()
	p := datatest.PNG(t, 9, 8)
	dir = datatest.WriteFiles(t, map[string][]byte{
		"a/0.png": p, "a/1.png": p[:len(p)/2], "a/3.png": p, "a/5.png": p, "b/0.png": []byte("none"), "b/1.png": nil,
		"c/0.png": p, "c/2.png": p, "c/3.png": p,
	})
	at := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	if err := errors.Join(os.Symlink("/nowhere", at("a/2.png")), syscall.Mkfifo(at("a/4.png"), 0o666),
		os.Symlink("/dev/null", at("c/1.png"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/1.png", "a/2.png", "a/4.png", "b/0.png", "b/1.png", "c/1.png"} {
		bad = append(bad, at(name))
	}
	return dir, bad
}

func TestCheckPictures(t *testing.T) {
	dir, bad := badTree(t)
	src, err := catalog.Open(t.Context(), dir, catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for _, workers := range []int{1, 3} {
		last := 0
		found, err := CheckPictures(t.Context(), src, 0, src.Len(), workers, func(done int) { last = done })
		if err != nil || last != 12 {
			t.Fatalf("%d done, error %v", last, err)
		}
		var got []string
		for _, b := range found.Bad {
			got = append(got, b.Err.Path)
		}
		if !slices.Equal(got, bad) || !slices.Equal(found.IDs(), []int{1, 2, 4, 6, 7, 9}) {
			t.Errorf("bad are %v, %q, want %q", found.IDs(), got, bad)
		}
	}
	part, err := CheckPictures(t.Context(), src, 3, 7, 2, nil)
	if err != nil || !slices.Equal(part.IDs(), []int{4, 6}) {
		t.Errorf("samples 3 to 6: %v, error %v", part.IDs(), err)
	}
	if got := catalog.Emptied(src, []int{1, 2, 4, 6, 7, 9}); !slices.Equal(got, []int{1}) {
		t.Errorf("emptied are %v, want the class b", got)
	}
	if got := catalog.Emptied(src, []int{6}); len(got) != 0 {
		t.Errorf("emptied are %v, want none", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := CheckPictures(ended, src, 0, src.Len(), 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	// What cannot be read is no bad picture.
	if err := os.Remove(filepath.Join(dir, "a", "0.png")); err != nil {
		t.Fatal(err)
	}
	if _, err := CheckPictures(t.Context(), src, 0, src.Len(), 1, nil); err == nil ||
		errors.As(err, new(*catalog.BadPicture)) {
		t.Errorf("error %v of a picture that is gone", err)
	}
}

// TestWithoutInBatches: what is left of a source comes batch by batch.
func TestWithoutInBatches(t *testing.T) {
	dir, _ := badTree(t)
	src, err := catalog.Open(t.Context(), dir, catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	left := catalog.Without(src, []int{9, 1, 2, 7, 6, 4, 4})
	nested := catalog.Without(catalog.Without(src, []int{2, 4, 9}), []int{1, 4, 5})
	for _, s := range []catalog.Source{left, nested} {
		n := 0
		for b, err := range Images(t.Context(), s, ImageOptions{Size: picture.Square(4), Batch: 3, Epochs: 2}) {
			if err != nil {
				t.Fatal(err)
			}
			n += len(b.IDs)
		}
		if n != 12 {
			t.Errorf("%d pictures in two epochs, want 12", n)
		}
	}
}
