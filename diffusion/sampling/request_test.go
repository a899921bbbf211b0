package sampling

import (
	"math"
	"testing"

	"github.com/ditrun/ditrun/dit"
)

// What no model can take is found without one, by a message that begins with the name of a flag.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		r    Request
		want string // "" for none
	}{
		{Request{}, ""},
		{Request{Labels: []int{-7, 1e9}, Steps: "ddim50", Sampler: "ddim", RNG: "torch", CFGScale: 1e6,
			Guided: dit.GuideAll, BatchSize: 5}, ""},
		{Request{CFGScale: 0.5}, "cfg-scale 0.5: want a number from 1 (no guidance) up"},
		{Request{CFGScale: -1}, "cfg-scale -1: want a number from 1 (no guidance) up"},
		{Request{CFGScale: math.NaN()}, "cfg-scale NaN: want a number from 1 (no guidance) up"},
		{Request{CFGScale: math.Inf(1)}, "cfg-scale +Inf: want at most 1000000"},
		{Request{Steps: "0"}, `num-sampling-steps "0": keeps no step`},
		{Request{Sampler: "euler"}, `sampler "euler": want ddpm or ddim`},
		{Request{RNG: "dice"}, `rng "dice": want image, torch`},
		{Request{BatchSize: -1}, "batch-size -1: want at least 0"},
		{Request{NumSamples: 4, RNG: "torch", BatchSize: 3},
			"batch-size 3: with rng torch all 4 pictures are drawn at once, as the original does"},
		{Request{First: -1}, "first picture -1: want 0 or more"},
	} {
		if err := c.r.Validate(); err == nil && c.want != "" || err != nil && err.Error() != c.want {
			t.Errorf("%+v: error %v, want %q", c.r, err, c.want)
		}
	}
}
