package stream

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
)

// TestSpecialFilesInRange: a range leaves out or stops at what is listed among pictures and is no file.
func TestSpecialFilesInRange(t *testing.T) {
	dir, want := datatest.SpecialFiles(t)
	labels := filepath.Join(t.TempDir(), "labels.txt")
	if err := os.WriteFile(labels, []byte(strings.Repeat("x\n", 7)), 0o666); err != nil {
		t.Fatal(err)
	}
	for location, o := range map[string]catalog.Options{dir: {}, filepath.Join(dir, "a"): {Labels: labels}} {
		src, err := catalog.Open(t.Context(), location, o)
		if err != nil {
			t.Fatal(err)
		}
		var bad []string
		good := 0
		keep := ImageOptions{Size: picture.Square(8), Batch: 3, Workers: 2, KeepGoing: true}
		for b, err := range ImageRange(t.Context(), src, 0, src.Len(), keep) {
			if err != nil {
				t.Fatal(err)
			}
			good += len(b.IDs)
			for _, e := range b.Bad {
				bad = append(bad, e.Err.Error())
			}
		}
		if good+len(want) != src.Len() || good < 2 || !slices.Equal(bad, want) {
			t.Errorf("%s: %d good pictures of %d, bad ones\n%s\nwant\n%s", location, good, src.Len(),
				strings.Join(bad, "\n"), strings.Join(want, "\n"))
		}
		// Without KeepGoing the first is the error.
		stop := ImageOptions{Size: picture.Square(8), Batch: 1, Workers: 1}
		for _, err = range ImageRange(t.Context(), src, 0, src.Len(), stop) {
		}
		if err == nil || err.Error() != want[0] {
			t.Errorf("%s: error %v, want %s", location, err, want[0])
		}
		src.Close()
	}
}

// TestDecodeMemory: decoders that run at once keep within the memory given to them, and one that needs more runs alone.
// What another decoder holds is told by the pixels of its picture.
func TestDecodeMemory(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	const large, small, pixel = 50 * 40 * 11, 5 * 4 * 11, 11
	for _, c := range []struct {
		memory  int64
		held    int // pixels
		picture int
		waits   bool
	}{
		{large, 0, 0, false}, {large, 1, 0, true}, {large + pixel, 1, 0, false}, {large + pixel, 2, 0, true},
		{large, (large - small) / pixel, 1, false}, {large, (large-small)/pixel + 1, 1, true},
		{10, 0, 0, false}, {10, 1, 0, true}, {10, 0, 1, false}, {10, 1, 1, true}, // each alone
	} {
		dir := datatest.WriteFiles(t, map[string][]byte{
			"a/0.png": datatest.PNG(t, 50, 40), "a/1.png": datatest.PNG(t, 5, 4),
			"a/2.png": datatest.PNG(t, max(c.held, 1), 1), "a/3.png": datatest.PNG(t, 100, 90),
		})
		src, err := catalog.Open(t.Context(), dir, catalog.Options{DecodeMemory: c.memory})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		take := func(i int) (giveBack func()) {
			t.Helper()
			files, id := catalog.Raw(src)
			b, err := files.Bytes(id(i), nil)
			if err != nil {
				t.Fatal(err)
			}
			if giveBack, err = files.Decode(t.Context(), new(picture.Image), id(i), b); err != nil {
				t.Fatal(err)
			}
			return giveBack
		}
		done := func() {}
		if c.held > 0 {
			done = take(2)
		}
		r := newReader(src)
		crop, err := picture.NewCropper(picture.Square(4), picture.PillowClassic)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if c.waits { // for what is never given back: until the end
			ctx = ended
		}
		err = r.crop(ctx, crop, 0, c.picture, make([]byte, 3*4*4))
		if c.waits != errors.Is(err, context.Canceled) || !c.waits && err != nil {
			t.Errorf("%+v: error %v", c, err)
		}
		done()
		// All is given back, by who failed too: the largest takes all there is.
		take(3)()
	}
}

// TestLargeBuffersAreDropped: what a large picture needed does not stay with each worker.
func TestLargeBuffersAreDropped(t *testing.T) {
	var large bytes.Buffer
	if err := png.Encode(&large, image.NewGray(image.Rect(0, 0, 6000, 4000))); err != nil {
		t.Fatal(err)
	}
	src, err := catalog.Open(t.Context(),
		datatest.WriteFiles(t, map[string][]byte{"a/0.png": large.Bytes(), "a/1.png": datatest.PNG(t, 60, 40)}),
		catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(src)
	crop, err := picture.NewCropper(picture.Square(8), picture.PillowClassic)
	if err != nil {
		t.Fatal(err)
	}
	for i, keeps := range []bool{false, true} {
		if err := r.crop(t.Context(), crop, 0, i, make([]byte, 3*8*8)); err != nil {
			t.Fatal(err)
		}
		if cap(r.img.Pix) > 0 != keeps {
			t.Errorf("after picture %d a buffer of %d bytes", i, cap(r.img.Pix))
		}
	}
}

// TestRangeMakesRoomForWhatThereIs: a batch size beyond the set is no reason to run out of memory.
func TestRangeMakesRoomForWhatThereIs(t *testing.T) {
	src, err := catalog.Open(t.Context(),
		datatest.WriteFiles(t, map[string][]byte{"a/0.png": datatest.PNG(t, 9, 8), "a/1.png": datatest.PNG(t, 9, 8)}),
		catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for b, err := range ImageRange(t.Context(), src, 0, 2,
		ImageOptions{Size: picture.Square(256), Batch: 1 << 40, Workers: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		n += len(b.IDs)
	}
	if n != 2 {
		t.Errorf("%d pictures, want 2", n)
	}
}
