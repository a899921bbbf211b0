package metrics

import (
	"fmt"
	"math"
)

// Features are those of N pictures, row by row [N, D].
type Features struct {
	N, D int
	Data []float32
}

// Row returns the features of picture i.
func (f Features) Row(i int) []float32 { return f.Data[i*f.D : (i+1)*f.D] }

// First returns those of the first n pictures.
func (f Features) First(n int) Features { return Features{n, f.D, f.Data[:n*f.D]} }

// Check is an error where the sizes do not agree or a number is not finite.
func (f Features) Check() error {
	if f.N < 1 || f.D < 1 || len(f.Data) != f.N*f.D {
		return fmt.Errorf("features [%d, %d] of %d numbers", f.N, f.D, len(f.Data))
	}
	for i, v := range f.Data {
		if v-v != 0 {
			return fmt.Errorf("feature %d of picture %d is %v: want finite numbers", i%f.D, i/f.D, v)
		}
	}
	return nil
}

// wide returns rows lo to hi in float64.
func (f Features) wide(lo, hi int) []float64 {
	out := make([]float64, (hi-lo)*f.D)
	for i, v := range f.Data[lo*f.D : hi*f.D] {
		out[i] = float64(v)
	}
	return out
}

// pick returns the rows of the given numbers in float64.
func (f Features) pick(rows []int) []float64 {
	out := make([]float64, 0, len(rows)*f.D)
	for _, i := range rows {
		for _, v := range f.Row(i) {
			out = append(out, float64(v))
		}
	}
	return out
}

func finite(v []float64) bool {
	for _, x := range v {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return false
		}
	}
	return true
}
