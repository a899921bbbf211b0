package bench

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
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

// On a GPU the second step, which is compared with a graph, is in no round that counts.
func TestWarmUp(t *testing.T) {
	for _, c := range []struct {
		dev    torch.Device
		steps  int
		rounds int
	}{{torch.CPU, 1, 1}, {torch.CPU, 2, 1}, {torch.CUDA(0), 1, 2}, {torch.CUDA(0), 2, 1}} {
		j := Job{Device: c.dev, Steps: c.steps, Rounds: 3, Profiled: true}
		if got, want := j.NumSteps(), (c.rounds+3+1)*c.steps; j.WarmUp() != c.rounds || got != want {
			t.Errorf("%v, %d steps a round: %d rounds do not count, %d steps, want %d and %d", c.dev, c.steps,
				j.WarmUp(), got, c.rounds, want)
		}
	}
}

// A profile that fails ends: the next one can begin.
func TestProfileEnds(t *testing.T) {
	err := torch.Run(torchtest.Device(t), func(s *torch.Scope) error {
		j := &Job{Device: s.Device(), Steps: 1}
		for range 2 {
			w, err := j.profile()
			if err != nil {
				return err
			}
			w.job = &Job{Device: torch.CUDA(1000)} // for which nobody can wait
			if _, err := w.stop(); err == nil || !strings.Contains(err.Error(), "Synchronize") {
				t.Errorf("error %v, want that of Synchronize", err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
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
