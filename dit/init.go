package dit

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// labelStd is the standard deviation of a new row of the label table.
const labelStd = 0.02

// Init fills the weights as the paper does (initialize_weights of the original), drawn from gen on
// the CPU. Biases, the modulations and the last layer are zero, so that every block starts as the
// identity and the model's first output is exactly zero.
func (m *DiT) Init(s *torch.Scope, gen *torch.Generator) {
	// The patch projection is initialised as the linear layer that it is; the fused matrix of
	// queries, keys and values counts as one matrix of 3D rows.
	nn.XavierUniform(s, gen, m.XEmbedder.Proj.Weight)
	nn.Normal(s, gen, m.TEmbedder.MLP0.Weight, 0.02)
	nn.Normal(s, gen, m.TEmbedder.MLP2.Weight, 0.02)
	nn.Normal(s, gen, m.YEmbedder.Table.Weight, labelStd)
	for _, b := range m.Blocks {
		for _, l := range []nn.Linear{b.Attn.QKV, b.Attn.Proj, b.MLP.FC1, b.MLP.FC2} {
			nn.XavierUniform(s, gen, l.Weight)
		}
	}
}
