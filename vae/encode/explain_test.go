package encode

import (
	"math"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
)

// What cannot be stored is told by the names of pictures, with what is to blame: a picture, if others are fine, else
// the autoencoder or its precision.
func TestUnstorableIsNamed(t *testing.T) {
	nan := float32(math.NaN())
	name := func(i int) string { return pictures{n: 21}.Sample(i).Name }
	for _, c := range []struct {
		stored int
		bad    latents.Unstorable
		want   string
	}{
		{0, latents.Unstorable{IDs: []int{7}, Of: 8, Value: nan},
			"the latents of " + name(7) + " are not finite numbers (NaN), those of the other 7 pictures in its batch " +
				"are fine: look at this picture"},
		{0, latents.Unstorable{IDs: []int{7, 9, 12}, Of: 8, Value: 1e5, Mirrored: true},
			"the latents of " + name(7) + " (mirrored) and of 2 others are too large for float16 (100000), those of " +
				"the other 5 pictures in its batch are fine: look at this picture"},
		{24, latents.Unstorable{IDs: []int{20}, Of: 1, Value: nan},
			"the latents of " + name(20) + " are not finite numbers (NaN), those of the 24 pictures before it are " +
				"fine: look at this picture"},
		{0, latents.Unstorable{IDs: []int{0}, Of: 1, Value: nan},
			"the latents of " + name(0) + " are not finite numbers (NaN): look at this picture, or the autoencoder " +
				"is damaged, or its precision fp16 too narrow: try --precision fp32"},
		{0, latents.Unstorable{IDs: []int{0, 1, 2}, Of: 3, Value: nan},
			"the latents of all 3 pictures from " + name(0) + " to " + name(2) + " are not finite numbers (NaN): " +
				"the autoencoder is damaged, or its precision fp16 too narrow: try --precision fp32"},
		{0, latents.Unstorable{IDs: []int{0, 1, 2}, Of: 3, Value: 1e5},
			"the latents of all 3 pictures from " + name(0) + " to " + name(2) + " are too large for float16 " +
				"(100000): --dtype fp32 stores them, if this is the autoencoder for such pictures"},
	} {
		e := &encoder{Options: Options{Source: pictures{n: 21}, Precision: "fp16"}, stored: c.stored}
		if got := e.explain(&c.bad).Error(); got != c.want {
			t.Errorf("%+v:\n%s, want\n%s", c.bad, got, c.want)
		}
	}
}
