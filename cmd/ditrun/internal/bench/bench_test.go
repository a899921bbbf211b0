package bench

import (
	"math"
	"testing"

	"github.com/ditrun/ditrun/torch"
)

func TestFigures(t *testing.T) {
	for _, c := range []struct {
		rounds       []float64
		best, median float64
	}{{[]float64{3}, 3, 3}, {[]float64{4, 2}, 2, 3}, {[]float64{5, 1, 2}, 1, 2}, {[]float64{4, 1, 3, 2}, 1, 2.5}} {
		f := NewFigures("train", 8, c.rounds)
		if f.Work != "train" || f.StepSeconds != c.best || f.MedianStepSeconds != c.median ||
			f.ImagesPerSecond != 8/c.best {
			t.Errorf("of %v: %+v", c.rounds, f)
		}
		f = f.arithmetic(&Job{Device: torch.CPU, Precision: "fp32"}, 6e12)
		if math.Abs(f.TFLOPS-6/c.best) > 1e-12 || f.MFU != 0 {
			t.Errorf("of 6e12 operations in %g s: %g TFLOP/s, MFU %g", c.best, f.TFLOPS, f.MFU)
		}
	}
}
