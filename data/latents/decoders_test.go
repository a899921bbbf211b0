package latents

import (
	"testing"

	"github.com/ditrun/ditrun/data/picture"
)

// TestOldDecoderNameContinues: sets of earlier versions, whose decoders gave the same pixels, go on: an unfinished
// one is continued, and a finished one is found to be so.
func TestOldDecoderNameContinues(t *testing.T) {
	old, now := testPlan(10), testPlan(10)
	old.Decoder = "libjpeg-turbo, libwebp, go image, golang.org/x/image" // kept in manifests since the first release
	now.Decoder = picture.Decoders
	dir := t.TempDir()
	w, err := NewWriter(dir, old)
	if err != nil {
		t.Fatal(err)
	}
	for c, err := range w.Claims(t.Context(), 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		if err := fillClaim(c); err != nil {
			t.Fatal(err)
		}
		break
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := NewWriter(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	missing, err := next.Missing()
	if err != nil || len(missing) != 2 {
		t.Fatalf("%v shards missing, %v; want 2 of 3", missing, err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := encodeAll(t.Context(), dir, now); err != nil {
		t.Fatal(err)
	}
	m, err := encodeAll(t.Context(), dir, old)
	if err != nil || m.Decoder != old.Decoder {
		t.Errorf("a finished set: %v", err)
	}
}
