package latents

import (
	"bytes"
	"slices"
	"testing"
)

// TestFetch: what is read ahead are the records of both views, through the borders of shards.
func TestFetch(t *testing.T) {
	l, err := Open(testLatents(t, testPlan(50)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	size := l.RecordBytes()
	for lo := range 50 {
		for hi := lo + 1; hi <= 50; hi++ {
			for _, flip := range []bool{false, true} {
				buf := make([]byte, 50*size)
				l.Fetch(buf, lo, hi, flip)
				// The last shard's part stays.
				from := max(lo, l.starts[slices.IndexFunc(l.starts, func(s int) bool { return s >= hi })-1])
				want := make([]byte, (hi-from)*size)
				if err := l.ReadStored(want, flip, int64(from*size)); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(buf[:len(want)], want) {
					t.Fatalf("records %d to %d, mirrored %v: other bytes", lo, hi, flip)
				}
			}
		}
	}
}
