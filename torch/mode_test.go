package torch_test

import (
	"errors"
	"math"
	"sync"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// What a scope says of how to compute reaches libtorch, holds for that scope and those opened in it, and for nothing
// else. torch/shim/test/modes.cpp looks into the operations and the backward pass.
func TestModeTravelsWithTheScope(t *testing.T) {
	const grad, tf32, deterministic = torch.ModeGrad, torch.ModeTF32, torch.ModeDeterministic
	want := func(s *torch.Scope, mode uint32, where string) {
		t.Helper()
		if got := s.ModeWithin(); got != mode {
			t.Errorf("%s: libtorch is in mode %#x, want %#x", where, got, mode)
		}
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		want(s, grad, "Run")
		on := s.TF32(true)
		want(on, grad|tf32, "TF32")
		want(s, grad, "the scope that a view was made of")
		want(on.NoGrad(), tf32, "TF32, NoGrad")
		want(on.TF32(false), grad, "TF32, off")
		want(on.Deterministic(true), grad|tf32|deterministic, "TF32, Deterministic")
		want(on.Deterministic(true).Deterministic(false), grad|tf32, "TF32, not Deterministic")
		on.Sub(func(s *torch.Scope) *torch.Tensor { want(s, grad|tf32, "Sub"); return nil })
		on.SubAll(func(s *torch.Scope) []*torch.Tensor { want(s, grad|tf32, "SubAll"); return nil })
		err := on.NoGrad().Try(func(s *torch.Scope) error {
			want(s, tf32, "Try")
			s.MatMul(s.Ones(torch.Float32, 2, 3), s.Ones(torch.Float32, 2, 3))
			return nil
		})
		if !errors.Is(err, torch.ErrShape) {
			t.Errorf("a product of wrong shapes: %v", err)
		}
		want(s, grad, "after a failure")
		return nil
	})
	// Goroutines that want it differently, at once.
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			torch.Run(torchtest.Device(t), func(s *torch.Scope) error {
				mode := uint32(grad)
				if s = s.TF32(g%2 > 0); g%2 > 0 {
					mode |= tf32
				}
				if s = s.Deterministic(g > 1); g > 1 {
					mode |= deterministic
				}
				for range 500 {
					want(s, mode, "one of four goroutines")
				}
				return nil
			})
		})
	}
	wg.Wait()
}

// On a GPU, TF32 drops what float32 keeps, in a product, a convolution and their gradients.
func TestTF32Rounds(t *testing.T) {
	if !torchtest.Device(t).IsCUDA() {
		t.Skip("TF32 needs a GPU")
	}
	const n, fine = 256, 1 + 0x1p-13
	rounds := func(s *torch.Scope, y *torch.Tensor, terms float64) bool {
		return math.Abs(s.Mean(y).Item()/terms-fine) > 0x1p-15
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		for _, forward := range []bool{false, true} {
			for _, backward := range []bool{false, true} {
				for _, conv := range []bool{false, true} {
					x, w := s.Full(fine, torch.Float32, n, n), s.Ones(torch.Float32, n, n)
					if conv {
						x, w = s.Reshape(x, 1, n, 16, 16), s.Reshape(w, n, n, 1, 1)
					}
					w.SetRequiresGrad(true)
					f := s.TF32(forward)
					var y *torch.Tensor
					if conv {
						y = f.Conv2d(x, w, nil, 1, 0)
					} else {
						y = f.MatMul(x, w)
					}
					s.TF32(backward).Backward(s.Sum(y))
					// cuDNN may use TF32, cuBLAS does.
					if got := rounds(s, y, n); got && !forward || !got && forward && !conv {
						t.Errorf("forward, TF32 %v, convolution %v: rounded %v", forward, conv, got)
					}
					if got := rounds(s, s.Grad(w), n); got && !backward || !got && backward && !conv {
						t.Errorf("backward, TF32 %v, convolution %v: rounded %v", backward, conv, got)
					}
				}
			}
		}
		return nil
	})
}
