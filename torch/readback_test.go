package torch_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// What a readback has received stays while the next tensor is on its way, and tensors come in the order of Start.
func TestReadback(t *testing.T) {
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		r := torch.NewReadback(s, 6*4)
		defer r.Close()
		start := func(k int) {
			s.Sub(func(s *torch.Scope) *torch.Tensor {
				x := s.AddScalar(s.Arange(6-k, torch.Float32), float64(k))
				if k == 0 { // of another order in memory
					x = s.Transpose(s.Reshape(x, 2, 3), 0, 1)
				}
				r.Start(x)
				return nil
			})
		}
		count := traffic(func() {
			start(0)
			for k := range 4 {
				start(k + 1)
				var want []float32
				for i := range 6 - k {
					want = append(want, float32(i+k))
				}
				if k == 0 {
					want = []float32{0, 3, 1, 4, 2, 5}
				}
				got := torch.Received[float32](r)
				if !slices.Equal(got, want) {
					t.Errorf("%d: %v, want %v", k, got, want)
				}
			}
		})
		if want := (torch.Traffic{ReadBacks: 5}); count != want && !s.Device().IsCUDA() { // a GPU may be waited for
			t.Errorf("%+v, want %+v", count, want)
		}
		return nil
	})
	wantLive(t, before, "at the end")
}

func TestReadbackRefusals(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		x := s.Ones(torch.Float32, 2)
		closed, full, none := torch.NewReadback(s, 8), torch.NewReadback(s, 8), torch.NewReadback(s, 8)
		closed.Close()
		closed.Close()
		defer full.Close() // with two tensors on their way
		defer none.Close()
		full.Start(x)
		full.Start(x)
		captured := s.Capture(func(*torch.Scope) []*torch.Tensor { none.Start(x); return nil })
		defer captured.Close()
		for name, f := range map[string]func(){
			"too large":     func() { torch.NewReadback(s, 1<<50) },
			"a large one":   func() { none.Start(s.Ones(torch.Float32, 3)) },
			"a third":       func() { full.Start(x) },
			"none":          func() { torch.Received[float32](none) },
			"after Close":   func() { closed.Start(x) },
			"of closed":     func() { torch.Received[float32](closed) },
			"in a capture":  captured.Replay,
			"nil":           func() { none.Start(nil) },
			"negative size": func() { torch.NewReadback(s, -1) },
		} {
			err := s.Try(func(*torch.Scope) error { f(); return nil })
			if e := new(torch.Error); !errors.As(err, &e) {
				t.Errorf("%s: %v, want an *Error", name, err)
			}
		}
		return nil
	})
}
