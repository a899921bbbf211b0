package dit

import (
	"fmt"

	"github.com/ditrun/ditrun/torch"
)

// GuidedChannels says which channels of the noise classifier-free guidance acts on.
type GuidedChannels int

// The original guides the first three of four channels, a leftover its authors keep so that their
// results can be reproduced; guiding all is what the formula of the paper says.
const (
	GuideThree GuidedChannels = 3
	GuideAll   GuidedChannels = -1
)

// ParseGuidedChannels reads "3" or "all".
func ParseGuidedChannels(text string) (GuidedChannels, error) {
	switch text {
	case "3":
		return GuideThree, nil
	case "all":
		return GuideAll, nil
	}
	return 0, fmt.Errorf("cfg-channels %q: want 3 or all", text)
}

// Guidance leads the answer of a model away from a weaker one: that of the same model without its condition
// (classifier-free guidance; DiT paper, section 3.1), or of a worse model under the same condition (autoguidance,
// Karras et al. 2024).
type Guidance struct {
	Scale    float64 // 1 is none
	Channels GuidedChannels
	// Rescale brings the guided channels of each sample to the standard deviation that they have without guidance, all
	// the way at 1, not at all at 0 (Lin et al. 2023, section 3.4).
	Rescale float64
}

// Mix returns weak + Scale (strong - weak) on the guided channels of answers [N, Cout, I, J] about samples of c
// channels. The others are those of strong.
func (g Guidance) Mix(s *torch.Scope, strong, weak *torch.Tensor, c int) *torch.Tensor {
	k := min(int(g.Channels), c)
	if g.Channels == GuideAll {
		k = c
	}
	wanted, away, others := s.Narrow(strong, 1, 0, k), s.Narrow(weak, 1, 0, k), s.Narrow(strong, 1, k, strong.Dim(1)-k)
	guided := s.Add(away, s.MulScalar(s.Subtract(wanted, away), g.Scale))
	if g.Rescale != 0 {
		rescaled := s.Mul(guided, s.Div(deviations(s, wanted), deviations(s, guided)))
		guided = s.Add(s.MulScalar(rescaled, g.Rescale), s.MulScalar(guided, 1-g.Rescale))
	}
	return s.Cat([]*torch.Tensor{guided, others}, 1)
}

// deviations is the standard deviation of each sample x [N, ...], [N, 1, 1, 1].
func deviations(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	flat := s.Reshape(x, x.Dim(0), -1)
	centred := s.Subtract(flat, s.MeanDims(flat, true, 1))
	return s.Reshape(s.PowScalar(s.MeanDims(s.Square(centred), true, 1), 0.5), -1, 1, 1, 1)
}

// ForwardWithCFG is Forward under classifier-free guidance. x is [N, C, I, J] and t [N]; cond is of 2N: the wanted
// conditions, and behind them what to lead away from, the null class and the tokens of an empty or a negative prompt.
// Both take one pass of 2N through the model. The result is [N, Cout, I, J].
func (m *DiT) ForwardWithCFG(s *torch.Scope, x, t *torch.Tensor, cond Condition, g Guidance) *torch.Tensor {
	n := x.Dim(0)
	out := m.Forward(s, s.Cat([]*torch.Tensor{x, x}, 0), s.Cat([]*torch.Tensor{t, t}, 0), cond)
	return g.Mix(s, s.Narrow(out, 0, 0, n), s.Narrow(out, 0, n, n), m.cfg.InChannels)
}
