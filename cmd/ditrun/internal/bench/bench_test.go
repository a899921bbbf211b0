package bench

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/ditrun/ditrun/diffusion/training"
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

// TestOutOfMemoryNamesNoFlags: what training advises are flags of train.
func TestOutOfMemoryNamesNoFlags(t *testing.T) {
	cause := fmt.Errorf("%w on cuda:0", torch.ErrOutOfMemory)
	advised := fmt.Errorf("%w: take a smaller model, or --recompute-activations", cause)
	for want, err := range map[string]error{
		"out of memory on cuda:0: 64 pictures do not fit, 35 would": &training.BatchError{Err: advised, Samples: 64,
			Fit: 35},
		"out of memory on cuda:0: not even one picture fits": &training.BatchError{Err: advised, Samples: 1},
	} {
		got := ofMemory(fmt.Errorf("step 1: %w", err))
		if got.Error() != want || !errors.Is(got, torch.ErrOutOfMemory) ||
			errors.As(got, new(*training.BatchError)) {
			t.Errorf("%v, want %s", got, want)
		}
	}
	if got := ofMemory(cause); got != cause {
		t.Errorf("another error became %v", got)
	}
}
