// Package latentstest makes small sets of latents for the tests of packages above latents.
package latentstest

import (
	"context"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// Plan is a small plan: n samples of [2*2, 3, 3] moments in shards of 4.
func Plan(n int) latents.Plan {
	return latents.Plan{
		Dataset:  latents.Dataset{Samples: n, Hash: "d1", Order: "label, position", Classes: []string{"a", "b", "c"}},
		VAE:      latents.VAE{Name: "test-vae", SHA256: strings.Repeat("ab", 32), ScalingFactor: 0.18215},
		Channels: 2, Height: 3, Width: 3, DType: checkpoint.F16, Flip: true,
		ImageSize: picture.Square(24), Crop: picture.PillowClassic.Crop(), Decoder: picture.Decoders, ShardSize: 4,
		Tool: "test",
	}
}

// Moment is the j-th moment of a sample: exact in float16, within the limits of the log variance.
func Moment(id, j int, flip bool) float32 {
	v := float32((id*31+j*7)%41)/2 - 10
	if flip {
		return v + 0.25
	}
	return v
}

// Records are the moments of samples lo to hi-1.
func Records(p *latents.Plan, lo, hi int, flip bool) []float32 {
	var m []float32
	for id := lo; id < hi; id++ {
		for j := range 2 * p.Channels * p.Height * p.Width {
			m = append(m, Moment(id, j, flip))
		}
	}
	return m
}

// Labels are those of samples lo to hi-1, 0 to 2.
func Labels(lo, hi int) []int64 {
	var l []int64
	for id := lo; id < hi; id++ {
		l = append(l, int64(id%3))
	}
	return l
}

// IDs are lo to hi-1.
func IDs(lo, hi int) []int {
	var ids []int
	for id := lo; id < hi; id++ {
		ids = append(ids, id)
	}
	return ids
}

// Encode makes the set of a plan in dir.
func Encode(ctx context.Context, dir string, p latents.Plan) (*latents.Manifest, error) {
	w, err := latents.NewWriter(dir, p)
	if err != nil {
		return nil, err
	}
	for c, err := range w.Claims(ctx, 0, 1) {
		if err != nil {
			return nil, err
		}
		var flip []float32
		if p.Flip {
			flip = Records(&p, c.Lo, c.Hi, true)
		}
		if err := c.Add(IDs(c.Lo, c.Hi), Records(&p, c.Lo, c.Hi, false), flip, Labels(c.Lo, c.Hi)); err != nil {
			return nil, err
		}
		if err := c.Commit(); err != nil {
			return nil, err
		}
	}
	return w.Finish(ctx)
}

// Make makes the set of a plan in a new folder.
func Make(t testing.TB, p latents.Plan) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if _, err := Encode(context.Background(), dir, p); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Open opens a set until the test ends. Captions are read once: to read them anew, open the set again.
func Open(t testing.TB, dir string) *latents.Set {
	t.Helper()
	l, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
