// Package text is the text encoder of CLIP (Radford et al., arXiv:2103.00020), under the parameter names of
// transformers: it turns captions into the tokens that a DiT is conditioned on. Its tokenizer, which needs no
// libtorch, is package bpe.
//
//	e, err := text.Open("stable-diffusion-v1-5", torch.CPU)
//	defer e.Close()
//	err = torch.Run(e.Device(), func(s *torch.Scope) error {
//		states, lengths := e.Encode(s, []string{"a photo of a cat", ""})
//		...
//	})
//
// Shape letters: N captions, L tokens, W width, H heads.
package text

import (
	"math"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// Model is the transformer: token and position tables, pre-norm layers with causal attention, a norm.
type Model struct {
	Tokens    nn.Embedding `dit:"embeddings.token_embedding"`
	Positions nn.Embedding `dit:"embeddings.position_embedding"`
	Layers    []Layer      `dit:"encoder.layers"`
	Norm      nn.LayerNorm `dit:"final_layer_norm"`
}

// NewModel makes a model of zeros on the scope's device, its norms the identity. Its parameters are
// persistent until they are closed, by nn.Close.
func NewModel(s *torch.Scope, cfg Config) (*Model, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return build(s, cfg), nil
}

// build makes a model of a configuration whose sizes are within bounds.
func build(s *torch.Scope, cfg Config) *Model {
	w := cfg.HiddenSize
	norm := func() nn.LayerNorm { return nn.NewLayerNorm(s, w, cfg.LayerNormEps) }
	m := &Model{Tokens: nn.NewEmbedding(s, cfg.VocabSize, w),
		Positions: nn.NewEmbedding(s, cfg.MaxPositionEmbeddings, w)}
	for range cfg.NumHiddenLayers {
		m.Layers = append(m.Layers, Layer{
			Attn: Attention{nn.NewLinear(s, w, w), nn.NewLinear(s, w, w), nn.NewLinear(s, w, w), nn.NewLinear(s, w, w),
				cfg.NumAttentionHeads},
			Norm1: norm(),
			MLP: MLP{nn.NewLinear(s, w, cfg.IntermediateSize), nn.NewLinear(s, cfg.IntermediateSize, w),
				cfg.HiddenAct == "quick_gelu"},
			Norm2: norm(),
		})
	}
	m.Norm = norm()
	return m
}

// Forward maps ids (Int64 [N, L]) to the states after the last norm, [N, L, W].
func (m *Model) Forward(s *torch.Scope, ids *torch.Tensor) *torch.Tensor {
	l := ids.Dim(1)
	mask := causal(s, l)
	x := s.Sub(func(s *torch.Scope) *torch.Tensor {
		return s.Add(m.Tokens.Forward(s, ids), s.Narrow(m.Positions.Weight, 0, 0, l))
	})
	for i := range m.Layers {
		x = s.Sub(func(s *torch.Scope) *torch.Tensor { return m.Layers[i].Forward(s, x, mask) })
	}
	return m.Norm.Forward(s, x)
}

// causal returns what is added to attention logits, [L, L]: minus infinity where the key comes after the query.
func causal(s *torch.Scope, l int) *torch.Tensor {
	mask := make([]float32, l*l)
	for query := range l {
		for key := query + 1; key < l; key++ {
			mask[query*l+key] = float32(math.Inf(-1))
		}
	}
	return torch.From(s, mask, l, l)
}

// Layer is one transformer layer.
type Layer struct {
	Attn  Attention    `dit:"self_attn"`
	Norm1 nn.LayerNorm `dit:"layer_norm1"`
	MLP   MLP          `dit:"mlp"`
	Norm2 nn.LayerNorm `dit:"layer_norm2"`
}

// Forward maps x [N, L, W] to [N, L, W] under the additive mask [L, L].
func (l *Layer) Forward(s *torch.Scope, x, mask *torch.Tensor) *torch.Tensor {
	x = s.Add(x, l.Attn.Forward(s, l.Norm1.Forward(s, x), mask))
	return s.Add(x, l.MLP.Forward(s, l.Norm2.Forward(s, x)))
}

// Attention is multi-head self-attention with a matrix each for queries, keys and values.
type Attention struct {
	K    nn.Linear `dit:"k_proj"`
	V    nn.Linear `dit:"v_proj"`
	Q    nn.Linear `dit:"q_proj"`
	Proj nn.Linear `dit:"out_proj"`

	NumHeads int
}

// Forward maps x [N, L, W] to [N, L, W] under the additive mask [L, L].
func (a *Attention) Forward(s *torch.Scope, x, mask *torch.Tensor) *torch.Tensor {
	n, l, w := x.Dim(0), x.Dim(1), x.Dim(2)
	heads := func(p *nn.Linear) *torch.Tensor { // [N, H, L, W/H]
		return s.Transpose(s.Reshape(p.Forward(s, x), n, l, a.NumHeads, w/a.NumHeads), 1, 2)
	}
	q := s.MulScalar(heads(&a.Q), 1/math.Sqrt(float64(w/a.NumHeads)))
	logits := s.Add(s.MatMul(q, s.Transpose(heads(&a.K), 2, 3)), mask) // [N, H, L, L]
	y := s.MatMul(s.Softmax(logits, -1), heads(&a.V))
	return a.Proj.Forward(s, s.Reshape(s.Transpose(y, 1, 2), n, l, w))
}

// MLP is the feed-forward part.
type MLP struct {
	FC1 nn.Linear `dit:"fc1"`
	FC2 nn.Linear `dit:"fc2"`

	Quick bool // x sigmoid(1.702 x) in place of GELU
}

// Forward maps x [N, L, W] to [N, L, W].
func (m *MLP) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	h := m.FC1.Forward(s, x)
	if m.Quick {
		h = s.Mul(h, s.Sigmoid(s.MulScalar(h, 1.702)))
	} else {
		h = s.GELUErf(h)
	}
	return m.FC2.Forward(s, h)
}
