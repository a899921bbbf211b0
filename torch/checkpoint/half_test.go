package checkpoint

import (
	"math"
	"testing"
)

// halfValue decodes a half by its definition.
func halfValue(h uint16) float64 {
	e, m := int(h>>10&31), float64(h&0x3ff)
	v := 0.0
	switch {
	case e == 0:
		v = math.Ldexp(m, -24)
	case e < 31:
		v = math.Ldexp(1024+m, e-25)
	case m == 0:
		v = math.Inf(1)
	default:
		return math.NaN()
	}
	if h>>15 == 1 {
		v = -v
	}
	return v
}

func TestHalfAllValues(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		f, want := float64(FromFloat16(h)), halfValue(h)
		if math.IsNaN(want) {
			if !math.IsNaN(f) || !math.IsNaN(float64(FromFloat16(Float16(float32(f))))) {
				t.Fatalf("%#04x: %v, want NaN that stays one", h, f)
			}
			continue
		}
		if f != want || math.Signbit(f) != math.Signbit(want) {
			t.Fatalf("%#04x: %v, want %v", h, f, want)
		}
		if back := Float16(float32(want)); back != h {
			t.Fatalf("%#04x: comes back as %#04x", h, back)
		}
	}
}

// Between two neighbouring halves the midpoint goes to the even one and everything else to the nearer one.
func TestHalfRounding(t *testing.T) {
	for i := range 0x7bff { // up to the pair (65472, 65504)
		lo, hi := uint16(i), uint16(i+1)
		mid := float32((halfValue(lo) + halfValue(hi)) / 2)
		even := lo + lo&1
		for _, c := range []struct {
			f    float32
			want uint16
		}{{math.Nextafter32(mid, 0), lo}, {mid, even}, {math.Nextafter32(mid, math.MaxFloat32), hi}} {
			if got := Float16(c.f); got != c.want {
				t.Fatalf("%v: %#04x, want %#04x", c.f, got, c.want)
			}
			if got := Float16(-c.f); got != c.want|0x8000 {
				t.Fatalf("%v: %#04x, want %#04x", -c.f, got, c.want|0x8000)
			}
		}
	}
	for f, want := range map[float32]uint16{
		65504: 0x7bff, 65519.996: 0x7bff, 65520: 0x7c00, math.MaxFloat32: 0x7c00, float32(math.Inf(1)): 0x7c00,
		float32(math.Inf(-1)): 0xfc00, 1e-30: 0, math.SmallestNonzeroFloat32: 0,
	} {
		if got := Float16(f); got != want {
			t.Errorf("%v: %#04x, want %#04x", f, got, want)
		}
	}
}
