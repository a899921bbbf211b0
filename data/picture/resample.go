package picture

import "math"

// filter is a resampling kernel with Pillow's support radius.
type filter int

const (
	box filter = iota
	bicubic
)

func (f filter) radius() float64 {
	if f == box {
		return 0.5
	}
	return 2
}

// at evaluates the kernel. The float64 conversions forbid fused multiply-add, which Go uses on some processors
// and which would change the last bit of a weight.
func (f filter) at(x float64) float64 {
	if f == box {
		if x > -0.5 && x <= 0.5 {
			return 1
		}
		return 0
	}
	const a = -0.5
	x = math.Abs(x)
	switch {
	case x < 1:
		return float64((float64((a+2)*x)-(a+3))*float64(x*x)) + 1
	case x < 2:
		return float64((float64((float64((x-5)*x)+8)*x) - 4) * a)
	}
	return 0
}

// weights holds, for the output positions [from, from+len(lo)) of one axis, the first input position and the
// fixed-point weights of its taps.
type weights struct {
	lo  []int
	off []int // k[off[i]:off[i+1]] are the taps of output from+i
	k   []int32

	pairs  int     // of taps, of the output that has most
	packed *packed // the same for the fast form, once it was asked for
}

// packed holds weights as 16-bit halves, in weights.pairs pairs for each output: see resample_amd64.h.
type packed struct {
	lo, taps, k []int32
}

func (w *weights) taps(i int) (lo int, k []int32) {
	return w.lo[i], w.k[w.off[i]:w.off[i+1]]
}

// span returns the input range [lo, hi) that the whole table reads.
func (w *weights) span() (lo, hi int) {
	n := len(w.lo)
	lo = w.lo[0]
	for i := range n {
		hi = max(hi, w.lo[i]+w.off[i+1]-w.off[i])
	}
	return lo, hi
}

const weightBits = 22 // Pillow's PRECISION_BITS for 8-bit samples

// newWeights computes the table of Pillow's precompute_coeffs and normalize_coeffs_8bpc for an axis that goes
// from in to out samples, for outputs [from, to).
func newWeights(f filter, in, out, from, to int) *weights {
	scale := float64(in) / float64(out)
	fscale := max(scale, 1)
	support := f.radius() * fscale
	inv := 1 / fscale
	t := &weights{off: make([]int, 1, to-from+1), lo: make([]int, 0, to-from)}
	var w []float64
	for i := from; i < to; i++ {
		centre := float64((float64(i) + 0.5) * scale)
		lo := max(int(centre-support+0.5), 0)
		hi := min(int(centre+support+0.5), in)
		w = w[:0]
		sum := 0.0
		for j := lo; j < hi; j++ {
			v := f.at(float64((float64(j) - centre + 0.5) * inv))
			w = append(w, v)
			sum += v
		}
		for _, v := range w {
			if sum != 0 {
				v /= sum
			}
			q := float64(v * (1 << weightBits))
			if v < 0 {
				t.k = append(t.k, int32(q-0.5))
			} else {
				t.k = append(t.k, int32(q+0.5))
			}
		}
		t.lo = append(t.lo, lo)
		t.off = append(t.off, len(t.k))
		t.pairs = max(t.pairs, (hi-lo+1)/2)
	}
	return t
}

// clamp8 brings a fixed-point sum, rounding included, back to a sample.
func clamp8(v int32) uint8 {
	v >>= weightBits
	if uint32(v) > 255 {
		if v < 0 {
			return 0
		}
		return 255
	}
	return uint8(v)
}

const half = 1 << (weightBits - 1)

// resampleRows filters along x: rows [y0, y1) of src, whose rows are srcW pixels wide, to rows of
// len(t.lo) pixels in dst.
func resampleRows(dst, src []uint8, srcW, y0, y1 int, t *weights) {
	n := len(t.lo)
	for y := y0; y < y1; y++ {
		row := src[3*y*srcW : 3*(y+1)*srcW]
		out := dst[3*(y-y0)*n : 3*(y-y0+1)*n]
		for x := range n {
			lo, k := t.taps(x)
			p := row[3*lo : 3*(lo+len(k))]
			r, g, b := int32(half), int32(half), int32(half)
			for _, w := range k {
				r += w * int32(p[0])
				g += w * int32(p[1])
				b += w * int32(p[2])
				p = p[3:]
			}
			o := out[3*x : 3*x+3 : 3*x+3]
			o[0], o[1], o[2] = clamp8(r), clamp8(g), clamp8(b)
		}
	}
}

// resampleCols filters along y: output row i of dst is a weighted sum of rows of src; both have rows of n
// samples, and row r of src is input row r+y0. acc is scratch of n sums.
func resampleCols(dst, src []uint8, n, y0 int, t *weights, acc []int32) {
	acc = acc[:n]
	for i := range t.lo {
		lo, k := t.taps(i)
		for x := range acc {
			acc[x] = half
		}
		for j, w := range k {
			row := src[(lo-y0+j)*n : (lo-y0+j+1)*n]
			for x, p := range row {
				acc[x] += w * int32(p)
			}
		}
		out := dst[i*n : (i+1)*n]
		for x, v := range acc {
			out[x] = clamp8(v)
		}
	}
}
