// Package philox draws random numbers as a pure function of what they are for.
//
// The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011). It has no state: every draw names its seed, its
// purpose (a tag), a step and an index, so the noise of image 17 is the same
// alone, in any batch, on any number of devices, and after a restart.
//
// The key is the 64-bit seed, low word first. The counter is
//
//	word 0   block: elements 4*block .. 4*block+3 of the draw
//	word 1   tag<<24 | step
//	word 2   index, low word
//	word 3   index, high word
//
// In sampling, index is the image and step the sampling step. In training step
// is 0 and index is step*batch + slot, counted over the whole run.
//
// The four words w0..w3 of a block become four standard normals by the
// transform of Box and Muller, in float64 and rounded once to float32:
//
//	u = (w0+1) * 2^-32                        in (0, 1]
//	r = sqrt(-2 ln u),  a = 2 pi w1 * 2^-32
//	n0 = r cos(a),  n1 = r sin(a)
//
// and n2, n3 likewise from w2, w3. In NumPy, with w of dtype uint32:
//
//	u = (w[..., 0::2] + 1.0) * 2.0**-32
//	a = w[..., 1::2] * (2 * np.pi * 2.0**-32)
//	r = np.sqrt(-2 * np.log(u))
//	n = np.stack([r * np.cos(a), r * np.sin(a)], -1).reshape(w.shape).astype(np.float32)
//
// The C++ and CUDA twin is torch/shim/kernels/philox.h: its integers are equal
// bit for bit, its normals within 1e-6, since mathematical libraries differ in
// the last bit of a float64 and so, rarely, in that of a float32.
package philox

import (
	"fmt"
	"math"
	"math/bits"
)

// Tags keep the draws of different purposes apart. A tag is less than 256; its
// number is part of what a seed means and never changes.
const (
	TagStartNoise = 0 // x_T of a sample; the noise a training sample is mixed with
	TagStepNoise  = 1 // noise added in a sampling step
	TagTimestep   = 2 // t of a training sample
	TagLabelDrop  = 3 // whether a training sample loses its label
	TagFlip       = 4 // which of the two views of a sample is used
	TagPosterior  = 5 // the draw from the VAE's posterior
	TagLabel      = 6 // the class of a sample when none is asked for
	TagWeights    = 7 // weights that a change of the number of classes adds
	TagCaption    = 8 // which of the captions of a sample is used
)

// MaxStep is the largest step: the counter has 24 bits for it.
const MaxStep = 1<<24 - 1

// Block returns words 4*block .. 4*block+3 of the draw named by seed, tag, step
// and index. It panics if tag is above 255 or step above MaxStep: the draw
// would be another's.
func Block(seed uint64, block, tag, step uint32, index uint64) [4]uint32 {
	if tag > 255 || step > MaxStep {
		panic(fmt.Sprintf("philox: tag %d, step %d: at most 255 and %d", tag, step, MaxStep))
	}
	return rounds([4]uint32{block, tag<<24 | step, uint32(index), uint32(index >> 32)}, uint32(seed), uint32(seed>>32))
}

// rounds is Philox4x32-10: ten rounds of two multiplications whose halves cross
// over, the key bumped by Weyl constants in between.
func rounds(c [4]uint32, k0, k1 uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(0xD2511F53, c[0])
		hi1, lo1 := bits.Mul32(0xCD9E8D57, c[2])
		c = [4]uint32{hi1 ^ c[1] ^ k0, lo1, hi0 ^ c[3] ^ k1, lo0}
		k0 += 0x9E3779B9
		k1 += 0xBB67AE85
	}
	return c
}

// Normals fills dst with standard normals: element i depends on i and on the
// name of the draw alone, so a longer dst begins with the values of a shorter.
// dst has at most 2^34 elements.
func Normals(dst []float32, seed uint64, tag, step uint32, index uint64) {
	for b := 0; 4*b < len(dst); b++ {
		w := Block(seed, uint32(b), tag, step, index)
		n := normals4(w)
		copy(dst[4*b:], n[:])
	}
}

// normals4 turns the words of a block into standard normals.
func normals4(w [4]uint32) [4]float32 {
	n0, n1 := boxMuller(w[0], w[1])
	n2, n3 := boxMuller(w[2], w[3])
	return [4]float32{n0, n1, n2, n3}
}

func boxMuller(w0, w1 uint32) (float32, float32) {
	u := (float64(w0) + 1) * 0x1p-32
	r := math.Sqrt(-2 * math.Log(u))
	sin, cos := math.Sincos(float64(w1) * (2 * math.Pi * 0x1p-32))
	return float32(r * cos), float32(r * sin)
}

// Uint32 is the first word of a draw.
func Uint32(seed uint64, tag, step uint32, index uint64) uint32 {
	return Block(seed, 0, tag, step, index)[0]
}

// Uniform is the first word of a draw scaled to [0, 1), a multiple of 2^-32.
func Uniform(seed uint64, tag, step uint32, index uint64) float64 {
	return float64(Uint32(seed, tag, step, index)) * 0x1p-32
}

// Intn is the first word of a draw scaled to an integer in [0, n): floor(n *
// Uniform). No value is favoured by more than n * 2^-32. n is positive and
// below 2^32, or Intn panics.
func Intn(n int, seed uint64, tag, step uint32, index uint64) int {
	if n <= 0 || int64(n) > math.MaxUint32 {
		panic(fmt.Sprintf("philox: no integers below %d", n))
	}
	hi, _ := bits.Mul32(uint32(n), Uint32(seed, tag, step, index))
	return int(hi)
}
