package dit

import "github.com/ditrun/ditrun/torch"

// AttentionBackend names the kernels that libtorch takes on dev for the self-attention of training steps whose matrix
// products are of type dt: see [torch.Scope.AttentionBackend]. It must not be called within [torch.Run].
func (c Config) AttentionBackend(dev torch.Device, dt torch.DType) (name string, err error) {
	err = torch.Run(dev, func(s *torch.Scope) error {
		// as [Attention.Forward] has them
		q := s.Empty(dt, 1, c.NumHeads, c.NumTokens(), c.HiddenSize/c.NumHeads)
		q.SetRequiresGrad(true)
		name = s.AttentionBackend(q, q, q)
		return nil
	})
	return name, err
}
