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
