package dit

import "github.com/ditrun/ditrun/torch"

// AttentionBackend names what computes on dev the self-attention of training steps whose matrix products are of type
// dt: kernels of libtorch's ([torch.Scope.AttentionBackend]) or, on the CPU in float32 with [torch.Fused], "own loops".
// It must not be called within [torch.Run].
func (c Config) AttentionBackend(dev torch.Device, dt torch.DType) (name string, err error) {
	if dev == torch.CPU && dt == torch.Float32 && torch.Fused() {
		return "own loops", nil
	}
	err = torch.Run(dev, func(s *torch.Scope) error {
		// as [Attention.Forward] has them
		q := s.Empty(dt, 1, c.NumHeads, c.NumTokens(), c.HiddenSize/c.NumHeads)
		q.SetRequiresGrad(true)
		name = s.AttentionBackend(q, q, q)
		return nil
	})
	return name, err
}
