package data

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/data/picture"
)

// badTree is a folder of three classes with bad pictures of every kind: class b has no other ones.
func badTree(t *testing.T) (dir string, bad []string) {
	t.Helper()
	p := pngOf(t, 9, 8)
	dir = writeFiles(t, map[string][]byte{
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
	src, err := Open(t.Context(), dir, Options{})
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
	if got := Emptied(src, []int{1, 2, 4, 6, 7, 9}); !slices.Equal(got, []int{1}) {
		t.Errorf("emptied are %v, want the class b", got)
	}
	if got := Emptied(src, []int{6}); len(got) != 0 {
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
	if _, err := CheckPictures(t.Context(), src, 0, src.Len(), 1, nil); err == nil || errors.As(err, new(*BadPicture)) {
		t.Errorf("error %v of a picture that is gone", err)
	}
}

// TestWithout: what is left of a source is the same samples in the same order, also batch by batch.
func TestWithout(t *testing.T) {
	dir, _ := badTree(t)
	src, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	left := Without(src, []int{9, 1, 2, 7, 6, 4, 4})
	nested := Without(Without(src, []int{2, 4, 9}), []int{1, 4, 5})
	want := []string{"0 0.png", "0 3.png", "0 5.png", "2 0.png", "2 2.png", "2 3.png"}
	for _, s := range []Source{left, nested} {
		var got []string
		for i := range s.Len() {
			got = append(got, fmt.Sprint(s.Sample(i).Label, " ", s.Sample(i).Name))
			if _, err := s.Image(i); err != nil {
				t.Error(err)
			}
		}
		if !slices.Equal(got, want) || Missing(s) != 6 || len(s.Classes()) != 3 {
			t.Errorf("left are %q, want %q; %d are missing", got, want, Missing(s))
		}
		n := 0
		for b, err := range ImageBatches(t.Context(), s, ImageOptions{Size: picture.Square(4), Batch: 3, Epochs: 2}) {
			if err != nil {
				t.Fatal(err)
			}
			n += len(b.IDs)
		}
		if n != 12 {
			t.Errorf("%d pictures in two epochs, want 12", n)
		}
	}
	if Without(src, nil) != src || Missing(src) != 0 {
		t.Error("without nothing it is another source")
	}
	hashes := []string{src.Hash(), left.Hash(), Without(src, []int{1}).Hash(), Without(src, []int{2}).Hash()}
	slices.Sort(hashes)
	if len(slices.Compact(hashes)) != 4 {
		t.Errorf("sources share hashes: %q", hashes)
	}
	if Without(src, []int{1, 2}).Hash() != Without(src, []int{2, 1}).Hash() {
		t.Error("the hash depends on the order of ids")
	}
}

func TestBadPicturesError(t *testing.T) {
	list := func(n int) (bad []Bad) {
		for i := range n {
			bad = append(bad, Bad{i, &BadPicture{fmt.Sprintf("d/%d.png", i), errors.New("torn")}})
		}
		return bad
	}
	for _, c := range []struct {
		bad, of int
		want    string
	}{
		{1, 1, "the only picture cannot be decoded: d/0.png: torn"},
		{1, 5, "a picture cannot be decoded: d/0.png: torn"},
		{2, 2, "none of the 2 pictures can be decoded:\n  d/0.png: torn\n  d/1.png: torn"},
		{2, 5, "pictures that cannot be decoded: 2\n  d/0.png: torn\n  d/1.png: torn"},
	} {
		e := &BadPicturesError{list(c.bad), c.of}
		if got := e.Error(); got != c.want || e.None() != (c.bad == c.of) {
			t.Errorf("%d of %d: %s, want %s", c.bad, c.of, got, c.want)
		}
	}
	e := &BadPicturesError{list(1_000_000), 2_000_000}
	text := e.Error()
	lines := strings.Count(text, "\n")
	if lines != 21 || !strings.HasSuffix(text, "d/19.png: torn\n  and 999980 more") {
		t.Errorf("%d lines: %s", lines, text)
	}
	if n := strings.Count(e.List(), "\n"); n != 1_000_000 {
		t.Errorf("the whole list has %d lines", n)
	}
}
