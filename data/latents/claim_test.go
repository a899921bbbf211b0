package latents

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
)

// Moments that cannot be stored are told of by sample, so that one bad picture is known from a bad autoencoder.
func TestUnstorableSaysWhich(t *testing.T) {
	p := testPlan(4)
	rec := p.recordLen()
	for _, c := range []struct {
		bad      map[int]float32 // by sample
		mirrored bool
		want     Unstorable
	}{
		{map[int]float32{2: float32(math.Inf(-1))}, false, Unstorable{[]int{2}, 4, float32(math.Inf(-1)), false}},
		{map[int]float32{1: 70000, 3: 80000}, true, Unstorable{[]int{1, 3}, 4, 70000, true}},
		{map[int]float32{0: 1e6, 1: 1e6, 2: 1e6, 3: 1e6}, false, Unstorable{[]int{0, 1, 2, 3}, 4, 1e6, false}},
	} {
		w, err := NewWriter(t.TempDir(), p)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		for claim, err := range w.Claims(context.Background(), 0, 1) {
			if err != nil {
				t.Fatal(err)
			}
			moments, flip := testRecords(&p, 0, 4, false), testRecords(&p, 0, 4, true)
			for id, v := range c.bad {
				if c.mirrored {
					flip[id*rec+5] = v
				} else {
					moments[id*rec+5] = v
				}
			}
			err = claim.Add(idsFrom(0, 4), moments, flip, testLabels(0, 4))
			var got *Unstorable
			if !errors.As(err, &got) || !slices.Equal(got.IDs, c.want.IDs) || got.Of != c.want.Of ||
				got.Value != c.want.Value || got.Mirrored != c.want.Mirrored {
				t.Errorf("%v: %+v (%v), want %+v", c.bad, got, err, c.want)
			}
			claim.Abandon()
			break
		}
	}
}
