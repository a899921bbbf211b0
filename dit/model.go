package dit

import (
	"cmp"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// normEps is the epsilon of every LayerNorm of the model.
const normEps = 1e-6

// DiT is the model. Its fields are in the order of the published state dict.
type DiT struct {
	PosEmbed  *torch.Tensor    `dit:"pos_embed"` // [1, T, D], fixed
	XEmbedder PatchEmbed       `dit:"x_embedder"`
	TEmbedder TimestepEmbedder `dit:"t_embedder"`
	YEmbedder *LabelEmbedder   `dit:"y_embedder"`    // nil without classes
	Text      *MLP             `dit:"text_embedder"` // W -> D -> D; nil without text
	Blocks    []Layer          `dit:"blocks"`
	Final     Layer            `dit:"final_layer"`

	cfg     Config
	design  Design
	compute torch.DType
}

// New makes a model of zeros on the scope's device: call [DiT.Init] or load weights next. Its
// parameters are persistent until nn.Close(model). On a scope of [torch.Shapes] it can be listed and counted.
// Config.Block names one of the paper's blocks or one of more.
func New(s *torch.Scope, cfg Config, more ...Design) (*DiT, error) {
	if err := cfg.validateSizes(); err != nil {
		return nil, err
	}
	design, err := cfg.design(more...)
	if err != nil {
		return nil, err
	}
	d, p := cfg.HiddenSize, cfg.PatchSize
	m := &DiT{
		PosEmbed:  nn.Constant(s, cfg.positions, 1, cfg.NumTokens(), d),
		XEmbedder: PatchEmbed{nn.NewConv2d(s, cfg.InChannels, d, p, p, 0)},
		TEmbedder: newTimestepEmbedder(s, cfg),
		cfg:       cfg,
		design:    design,
		compute:   torch.Float32,
	}
	if cfg.HasClass() {
		m.YEmbedder = &LabelEmbedder{nn.NewEmbedding(s, cfg.tableRows(), d)}
	}
	if cfg.HasText() {
		m.Text = &MLP{nn.NewLinear(s, cfg.TextWidth, d), nn.NewLinear(s, d, d)}
	}
	for range cfg.Depth {
		m.Blocks = append(m.Blocks, design.New(s, cfg))
	}
	out := nn.NewLinear(s, d, p*p*cfg.OutChannels())
	if design.Adaptive {
		m.Final = &FinalLayer{nn.AdaLayerNorm{Eps: normEps}, out, nn.NewLinear(s, d, 2*d)}
	} else {
		m.Final = &PlainFinalLayer{nn.NewLayerNorm(s, d, normEps), out}
	}
	return m, nil
}

// mlpNormEps is the epsilon of the norm before the MLP.
func (c Config) mlpNormEps() float64 { return cmp.Or(c.MLPNormEps, normEps) }

// Config returns what the model was made with.
func (m *DiT) Config() Config { return m.cfg }

// With returns a model of the same shape on other tensors, such as the averages of an optimizer. It does not own them,
// and shares with m the frequencies of the timestep alone.
func (m *DiT) With(params []nn.Param) *DiT {
	c := nn.Copy(m)
	nn.Bind(c, params)
	return c
}

// SetPrecision chooses the type of matrix products, Float32 or BFloat16. Parameters stay Float32, and so do timesteps,
// the sum of the conditioning, the tokens that blocks add to, norms and the output, as under PyTorch's autocast.
func (m *DiT) SetPrecision(dt torch.DType) { m.compute = dt }

// As returns m for sampling with matrix products of a type, see [DiT.SetPrecision], for which their weights are cast
// here, once. These belong to s; the other tensors are those of m.
func (m *DiT) As(s *torch.Scope, dt torch.DType) *DiT {
	params := nn.List(m)
	for i, p := range params {
		if m.Casts(p) && p.Tensor.DType() != dt {
			params[i].Tensor = s.NoGrad().To(p.Tensor, dt)
		}
	}
	c := m.With(params)
	c.SetPrecision(dt)
	return c
}

// Casts reports whether matrix products take parameter p of m in the type of [DiT.SetPrecision]. Those of the embedder
// of timesteps are Float32 in any case, as what it is added to.
func (m *DiT) Casts(p nn.Param) bool {
	for _, t := range nn.Params(&m.TEmbedder) {
		if t == p.Tensor {
			return false
		}
	}
	return p.Product
}

// Forward predicts the noise, and the variance where the model learns it, for x [N, C, I, J] at
// timesteps t [N] under the condition. The result is [N, Cout, I, J], Float32.
func (m *DiT) Forward(s *torch.Scope, x, t *torch.Tensor, cond Condition) *torch.Tensor {
	x, c := m.embed(s, x, t, cond)
	for _, b := range m.Blocks {
		x = s.Sub(func(s *torch.Scope) *torch.Tensor { return b.Forward(s, x, c) })
	}
	return m.patches(s, x, c)
}

// embed returns what the blocks start from: the sequence x [N, T, D] (with blocks in context, [N, T+S, D])
// and the conditioning.
func (m *DiT) embed(s *torch.Scope, x, t *torch.Tensor, cond Condition) (*torch.Tensor, Conditioning) {
	c := m.conditioning(s, t, cond)
	x = s.Add(m.XEmbedder.Forward(s, s.To(x, m.compute)), m.PosEmbed) // [N, T, D], Float32
	if m.design.InSequence {
		return appendTokens(s, x, c)
	}
	return x, c
}

// patches maps what the last block gave to the output [N, Cout, I, J].
func (m *DiT) patches(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor {
	x = s.Narrow(x, 1, 0, m.cfg.NumTokens()) // without the tokens of the conditioning
	return m.unpatchify(s, s.To(m.Final.Forward(s, x, c), torch.Float32))
}

// vectors embeds timesteps t [N] and, where the model has classes, labels y [N], each as [N, D].
func (m *DiT) vectors(s *torch.Scope, t, y *torch.Tensor) []*torch.Tensor {
	vectors := []*torch.Tensor{m.TEmbedder.Forward(s, t)}
	if m.YEmbedder != nil {
		vectors = append(vectors, m.YEmbedder.Forward(s, y))
	}
	return vectors
}

// vector is the sum of vectors.
func (m *DiT) vector(s *torch.Scope, t, y *torch.Tensor) *torch.Tensor {
	vectors := m.vectors(s, t, y)
	sum := vectors[0]
	for _, v := range vectors[1:] {
		sum = s.Add(sum, v)
	}
	return s.To(sum, m.compute)
}

// conditioning embeds timesteps t [N] and the condition.
func (m *DiT) conditioning(s *torch.Scope, t *torch.Tensor, cond Condition) (c Conditioning) {
	c.DType = m.compute
	dtype := c.DType // of tokens
	if m.design.InSequence {
		dtype = torch.Float32 // which those of the image are
	}
	var tokens []*torch.Tensor
	switch {
	case cond.Modulations != nil:
		c.rows, c.columns = s.IndexSelect(cond.Modulations.table, 0, cond.Rows), cond.Modulations.columns
		c.Vector = s.Narrow(c.rows, 1, 0, m.cfg.HiddenSize)
	case m.design.Adaptive:
		c.Vector = m.vector(s, t, cond.Labels)
	default:
		tokens = append(tokens, s.To(s.Stack(m.vectors(s, t, cond.Labels), 1), dtype)) // [N, 2, D]
	}
	if m.Text != nil {
		text := m.Text.Forward(s, s.To(cond.Tokens, m.compute)) // [N, L, D]
		tokens = append(tokens, s.To(text, dtype))
	}
	if len(tokens) > 0 {
		c.Tokens = s.Cat(tokens, 1) // [N, S, D]
	}
	if m.Text != nil && cond.Lengths != nil {
		all, before := c.Tokens.Dim(1), c.Tokens.Dim(1)-cond.Tokens.Dim(1)
		count := s.AddScalar(cond.Lengths, float64(before)) // of tokens that are no padding, [N]
		c.Mask = s.Lt(s.Arange(all, torch.Int64), s.Reshape(count, -1, 1, 1, 1))
	}
	return c
}

// unpatchify maps tokens [N, T, P P Cout] (channel last inside a patch) to [N, Cout, I, J].
func (m *DiT) unpatchify(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	n, c, p := x.Dim(0), m.cfg.OutChannels(), m.cfg.PatchSize
	rows, cols := m.cfg.grid()
	x = s.Permute(s.Reshape(x, n, rows, cols, p, p, c), 0, 5, 1, 3, 2, 4) // [N, Cout, I/P, P, J/P, P]
	return s.Reshape(x, n, c, rows*p, cols*p)
}
