//go:build !amd64 || !cgo

package picture

func haveSIMD() bool { return false }

func resampleRowsSIMD(dst, src []uint8, srcW, y0, y1 int, t *weights, tail []uint8) {
	panic("data: no fast resampling on this processor")
}

func resampleColsSIMD(dst, src []uint8, n, y0 int, t *weights) {
	panic("data: no fast resampling on this processor")
}
