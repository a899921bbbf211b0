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

// What was received stays until the next Start, which writes over it where another tensor is on its way.
func TestReadbackHasTwoPieces(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		r := torch.NewReadback(s, 4)
		defer r.Close()
		start := func(k float64) { r.Start(s.Full(k, torch.Float32)) }
		start(1)
		start(2)
		first := torch.Received[float32](r)
		if first[0] != 1 {
			t.Errorf("%v, want 1", first)
		}
		start(3)
		second, third := torch.Received[float32](r), torch.Received[float32](r)
		if second[0] != 2 || third[0] != 3 || &third[0] != &first[0] {
			t.Errorf("%v and %v, want 2, and 3 where the 1 was", second, third)
		}
		return nil
	})
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
		for name, f := range map[string]func(){
			"too large":   func() { torch.NewReadback(s, 1<<50) },
			"a large one": func() { none.Start(s.Ones(torch.Float32, 3)) },
			"a third":     func() { full.Start(x) },
			"none":        func() { torch.Received[float32](none) },
			"after Close": func() { closed.Start(x) },
			"of closed":   func() { torch.Received[float32](closed) },
			"in a capture": func() {
				g := s.Capture(func(*torch.Scope) []*torch.Tensor { none.Start(x); return nil })
				defer g.Close()
				g.Replay()
			},
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
