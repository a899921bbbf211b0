package stream

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
)

func TestCheckPictures(t *testing.T) {
	dir, bad := datatest.BadTree(t)
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
	dir, _ := datatest.BadTree(t)
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
