package torch_test

import (
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func TestAttentionBackend(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		s = s.NoGrad()
		q := s.Zeros(torch.Float32, 1, 2, 16, 64)
		got := s.AttentionBackend(q, q, q)
		if s.Device() == torch.CPU && got != "flash" ||
			!slices.Contains([]string{"math", "flash", "efficient", "cudnn"}, got) {
			t.Errorf("float32: %q", got)
		}
		// No kernel takes these.
		if got := s.AttentionBackend(s.Zeros(torch.Float64, 2, 16, 64), s.Zeros(torch.Float64, 2, 16, 64),
			s.Zeros(torch.Float64, 2, 16, 64)); got != "math" {
			t.Errorf("float64 without a batch: %q, want math", got)
		}
		return nil
	})
	e := failure(t, func(s *torch.Scope) { s.AttentionBackend(nil, s.Zeros(torch.Float32, 1, 2, 16, 64), nil) })
	if e.Op != "AttentionBackend" {
		t.Errorf("without queries: %v", e)
	}
}

// On the CPU it is not known; on a GPU it grows with what is held and falls by a reset alone.
func TestPeakMemory(t *testing.T) {
	dev := torchtest.Device(t)
	if got := torch.CPU.PeakMemory(); got != 0 {
		t.Errorf("of the CPU: %d", got)
	}
	if err := torch.CUDA(1000).Synchronize(); err == nil {
		t.Error("a GPU that is not there was waited for")
	}
	if !dev.IsCUDA() {
		t.Skip("the rest needs a GPU")
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		before := dev.PeakMemory()
		s.Sub(func(s *torch.Scope) *torch.Tensor { s.Zeros(torch.Uint8, int(before)+1<<20); return nil })
		if peak := dev.PeakMemory(); peak < before+1<<20 || peak > 2*before+64<<20 {
			t.Errorf("%d bytes, then %d with %d more", before, peak, before+1<<20)
		}
		if dev.ResetPeakMemory(); dev.PeakMemory() > before {
			t.Errorf("%d bytes after a reset, %d before", dev.PeakMemory(), before)
		}
		return nil
	})
}
