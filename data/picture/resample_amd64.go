//go:build amd64 && cgo

package picture

// #cgo CFLAGS: -O3
// #cgo noescape dit_resample_rows
// #cgo nocallback dit_resample_rows
// #cgo noescape dit_resample_cols
// #cgo nocallback dit_resample_cols
// #include "resample_amd64.h"
import "C"

import (
	"unsafe"
)

// haveSIMD says whether this processor runs resampleRows and resampleCols in their fast form.
func haveSIMD() bool { return C.dit_have_avx2() != 0 }

// pack returns the weights in the form that the C code reads.
func (w *weights) pack() *packed {
	if w.packed != nil {
		return w.packed
	}
	p := &packed{k: make([]int32, 0, 2*w.pairs*len(w.lo))}
	for i := range w.lo {
		lo, k := w.taps(i)
		p.lo, p.taps = append(p.lo, int32(lo)), append(p.taps, int32(len(k)))
		tap := func(j int) (high, low uint16) {
			if j < len(k) {
				return split(k[j])
			}
			return 0, 0
		}
		for j := 0; j < 2*w.pairs; j += 2 {
			h0, l0 := tap(j)
			h1, l1 := tap(j + 1)
			p.k = append(p.k, int32(uint32(h0)|uint32(h1)<<16), int32(uint32(l0)|uint32(l1)<<16))
		}
	}
	w.packed = p
	return p
}

// split returns the parts of k = 4096*high + low, low in [-2048, 2047].
func split(k int32) (high, low uint16) {
	h := (k + 2048) >> 12
	return uint16(int16(h)), uint16(int16(k - h<<12))
}

func pointer[T any](s []T) *T { return unsafe.SliceData(s) }

func resampleRowsSIMD(dst, src []uint8, srcW, y0, y1 int, t *weights, tail []uint8) {
	p := t.pack()
	C.dit_resample_rows((*C.uint8_t)(pointer(dst)), (*C.uint8_t)(pointer(src)), C.int(srcW), C.int(y0), C.int(y1),
		(*C.int32_t)(pointer(p.lo)), (*C.int32_t)(pointer(p.k)), C.int(t.pairs), C.int(len(p.lo)),
		(*C.uint8_t)(pointer(tail)))
}

func resampleColsSIMD(dst, src []uint8, n, y0 int, t *weights) {
	p := t.pack()
	C.dit_resample_cols((*C.uint8_t)(pointer(dst)), (*C.uint8_t)(pointer(src)), C.int(n), C.int(y0),
		(*C.int32_t)(pointer(p.lo)), (*C.int32_t)(pointer(p.taps)), (*C.int32_t)(pointer(p.k)), C.int(t.pairs),
		C.int(len(p.lo)))
}
