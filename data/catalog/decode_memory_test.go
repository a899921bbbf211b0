package catalog

import (
	"context"
	"errors"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
)

// TestDecodeMemory: decoders that run at once keep within the memory given to them, and one that needs more runs alone.
func TestDecodeMemory(t *testing.T) {
	dir := datatest.WriteFiles(t,
		map[string][]byte{"a/0.png": datatest.PNG(t, 50, 40), "a/1.png": datatest.PNG(t, 5, 4)})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	const large, small = 50 * 40 * 11, 5 * 4 * 11
	for _, c := range []struct {
		memory, held int64
		picture      int
		waits        bool
	}{
		{large, 0, 0, false}, {large, 1, 0, true}, {large + 5, 5, 0, false}, {large + 5, 6, 0, true},
		{large, large - small, 1, false}, {large, large - small + 1, 1, true},
		{10, 0, 0, false}, {10, 1, 0, true}, {10, 0, 1, false}, {10, 1, 1, true}, // each alone
	} {
		src, err := Open(t.Context(), dir, Options{DecodeMemory: c.memory})
		if err != nil {
			t.Fatal(err)
		}
		files := src.(*catalogue)
		done, err := files.budget.take(t.Context(), c.held)
		if err != nil {
			t.Fatal(err)
		}
		b, err := files.Bytes(c.picture, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if c.waits { // for what is never given back: until the end
			ctx = ended
		}
		decoded, err := files.Decode(ctx, new(picture.Image), c.picture, b)
		if c.waits != errors.Is(err, context.Canceled) || !c.waits && err != nil {
			t.Errorf("%+v: error %v", c, err)
		}
		if err == nil {
			decoded()
		}
		done()
		// All is given back, by who failed too.
		if done, err = files.budget.take(t.Context(), c.memory); err != nil {
			t.Error(err)
		}
		done()
	}
	src, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := src.(*catalogue).budget.all; got != 1<<30 {
		t.Errorf("%d bytes where nobody says more", got)
	}
}
