package dit

import (
	"fmt"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// normEps is the epsilon of every LayerNorm of the model.
const normEps = 1e-6

// DiT is the model. Its fields stand in the order of the published state dict.
type DiT struct {
	PosEmbed  *torch.Tensor    `dit:"pos_embed"` // [1, T, D], fixed
	XEmbedder PatchEmbed       `dit:"x_embedder"`
	TEmbedder TimestepEmbedder `dit:"t_embedder"`
	YEmbedder LabelEmbedder    `dit:"y_embedder"`
	Blocks    []*Block         `dit:"blocks"`
	Final     FinalLayer       `dit:"final_layer"`

	cfg     Config
	compute torch.DType
}

// New makes a model of zeros on the scope's device: call [DiT.Init] or load weights next. Its
// parameters are persistent until nn.Close(model).
func New(s *torch.Scope, cfg Config) (*DiT, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Block != AdaLNZero || cfg.HasText() {
		return nil, fmt.Errorf("block %s, condition %s: only adaln-zero blocks on classes can be built", cfg.Block, cfg.Condition)
	}
	d, p := cfg.HiddenSize, cfg.PatchSize
	m := &DiT{
		PosEmbed:  torch.Persist(torch.From(s, cfg.positions(), 1, cfg.NumTokens(), d)),
		XEmbedder: PatchEmbed{nn.NewConv2d(s, cfg.InChannels, d, p, p, 0)},
		TEmbedder: TimestepEmbedder{nn.NewLinear(s, frequencyEmbeddingSize, d), nn.NewLinear(s, d, d), frequencies(s, cfg.TimestepFrequencyShift)},
		YEmbedder: LabelEmbedder{nn.NewEmbedding(s, cfg.tableRows(), d)},
		cfg:       cfg,
		compute:   torch.Float32,
	}
	norm := nn.AdaLayerNorm{Eps: normEps}
	mlpNorm := norm
	if cfg.MLPNormEps > 0 {
		mlpNorm.Eps = cfg.MLPNormEps
	}
	hidden := cfg.mlpHidden()
	for range cfg.Depth {
		m.Blocks = append(m.Blocks, &Block{
			Norm1: norm,
			Norm2: mlpNorm,
			Attn:  Attention{nn.NewLinear(s, d, 3*d), nn.NewLinear(s, d, d), cfg.NumHeads},
			MLP:   MLP{nn.NewLinear(s, d, hidden), nn.NewLinear(s, hidden, d)},
			AdaLN: nn.NewLinear(s, d, 6*d),
		})
	}
	m.Final = FinalLayer{norm, nn.NewLinear(s, d, p*p*cfg.OutChannels()), nn.NewLinear(s, d, 2*d)}
	return m, nil
}

// Config returns what the model was made with.
func (m *DiT) Config() Config { return m.cfg }

// With returns a model of the same shape on other tensors, such as the averages of an optimizer. It
// shares nothing with m and does not own them.
func (m *DiT) With(params []nn.Param) *DiT {
	c := *m
	c.Blocks = nil
	for _, b := range m.Blocks {
		block := *b
		c.Blocks = append(c.Blocks, &block)
	}
	nn.Bind(&c, params)
	return &c
}

// SetPrecision chooses the type that tokens are computed in: Float32, or BFloat16 with Float32
// parameters. Timesteps, conditioning sums and the output stay Float32.
func (m *DiT) SetPrecision(dt torch.DType) { m.compute = dt }

// Forward predicts the noise, and the variance where the model learns it, for x [N, C, I, J] at
// timesteps t [N] under the condition. The result is [N, Cout, I, J], Float32.
func (m *DiT) Forward(s *torch.Scope, x, t *torch.Tensor, cond Condition) *torch.Tensor {
	c := s.Add(m.TEmbedder.Forward(s, t), m.YEmbedder.Forward(s, cond.Labels)) // [N, D]
	c = s.To(c, m.compute)
	x = s.Add(m.XEmbedder.Forward(s, s.To(x, m.compute)), s.To(m.PosEmbed, m.compute)) // [N, T, D]
	for _, b := range m.Blocks {
		x = s.Sub(func(s *torch.Scope) *torch.Tensor { return b.Forward(s, x, c) })
	}
	return m.unpatchify(s, s.To(m.Final.Forward(s, x, c), torch.Float32))
}

// unpatchify maps tokens [N, T, P P Cout] (channel last inside a patch) to [N, Cout, I, J].
func (m *DiT) unpatchify(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	n, c, p := x.Dim(0), m.cfg.OutChannels(), m.cfg.PatchSize
	rows, cols := m.cfg.grid()
	x = s.Permute(s.Reshape(x, n, rows, cols, p, p, c), 0, 5, 1, 3, 2, 4) // [N, Cout, I/P, P, J/P, P]
	return s.Reshape(x, n, c, rows*p, cols*p)
}

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
	return 0, fmt.Errorf("guided channels %q: want 3 or all", text)
}

// ForwardWithCFG is Forward under classifier-free guidance: uncond + scale (cond - uncond) on the
// guided channels of the noise (DiT paper, section 3.1). The batch is [z; z'] of 2n under the
// conditions [asked; null], null being the null class and the tokens of an empty or a negative prompt:
// the first half of x is used for both, and both halves of the result hold the guided noise. Other
// channels pass through for each half.
func (m *DiT) ForwardWithCFG(s *torch.Scope, x, t *torch.Tensor, cond Condition, scale float64, guided GuidedChannels) *torch.Tensor {
	n := x.Dim(0) / 2
	half := s.Narrow(x, 0, 0, n)
	out := m.Forward(s, s.Cat([]*torch.Tensor{half, half}, 0), t, cond)
	k := min(int(guided), m.cfg.InChannels)
	if guided == GuideAll {
		k = m.cfg.InChannels
	}
	eps, rest := s.Narrow(out, 1, 0, k), s.Narrow(out, 1, k, out.Dim(1)-k)
	asked, null := s.Narrow(eps, 0, 0, n), s.Narrow(eps, 0, n, n)
	guidedEps := s.Add(null, s.MulScalar(s.Subtract(asked, null), scale))
	return s.Cat([]*torch.Tensor{s.Cat([]*torch.Tensor{guidedEps, guidedEps}, 0), rest}, 1)
}
