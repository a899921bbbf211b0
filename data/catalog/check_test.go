package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

// TestWithout: what is left of a source is the same samples in the same order.
func TestWithout(t *testing.T) {
	dir, _ := datatest.BadTree(t)
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
	e := &BadPicturesError{list(10_000), 20_000}
	text := e.Error()
	lines := strings.Count(text, "\n")
	if lines != 21 || !strings.HasSuffix(text, "d/19.png: torn\n  and 9980 more") {
		t.Errorf("%d lines: %s", lines, text)
	}
	if n := strings.Count(e.List(), "\n"); n != 10_000 {
		t.Errorf("the whole list has %d lines", n)
	}
}
