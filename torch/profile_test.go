package torch_test

import (
	"slices"
	"testing"
	"time"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The profiler counts the calls, and no time twice.
func TestProfile(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		dev := s.Device()
		x := s.Reshape(s.PhiloxNormal(1, 0, s.Zeros(torch.Int64, 1), s.Zeros(torch.Int64, 1), 300*300), 300, 300)
		work := func(n int) {
			for range n {
				s.MatMul(x, x)
			}
			s.Synchronize()
		}
		work(1)
		measure := func(n int) ([]torch.Timing, time.Duration) {
			if err := torch.StartProfile(dev); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			work(n)
			wall := time.Since(began)
			timings, err := torch.StopProfile(dev)
			if err != nil {
				t.Fatal(err)
			}
			return timings, wall
		}
		for _, n := range []int{3, 5} {
			timings, wall := measure(n)
			var sum time.Duration
			for _, m := range timings {
				sum += m.Time
			}
			if len(timings) == 0 || sum <= 0 || sum > wall {
				t.Fatalf("%v of %v: %v", sum, wall, timings)
			}
			if !slices.IsSortedFunc(timings, func(a, b torch.Timing) int { return int(b.Time - a.Time) }) {
				t.Errorf("not in order: %v", timings)
			}
			if dev.IsCUDA() {
				continue // kernels have other names
			}
			// MatMul calls it, and takes hardly any time itself.
			if timings[0].Name != "aten::mm" || timings[0].Calls != n {
				t.Errorf("%d products: %v", n, timings)
			}
		}
		return nil
	})
}
