package dit

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// labelStd is the standard deviation of a new row of the label table.
const labelStd = 0.02

// Init fills the weights as the paper does (initialize_weights of the original), drawn from gen on
// the CPU. Biases and the last layer are zero, so that the model's first output is exactly zero; what
// else starts at zero is for the kind of block to say.
func (m *DiT) Init(s *torch.Scope, gen *torch.Generator) {
	// The patch projection is initialised as the linear layer that it is.
	nn.XavierUniform(s, gen, m.XEmbedder.Proj.Weight)
	nn.Normal(s, gen, m.TEmbedder.MLP0.Weight, 0.02)
	nn.Normal(s, gen, m.TEmbedder.MLP2.Weight, 0.02)
	if m.YEmbedder != nil {
		nn.Normal(s, gen, m.YEmbedder.Table.Weight, labelStd)
	}
	if m.Text != nil {
		nn.Normal(s, gen, m.Text.FC1.Weight, 0.02)
		nn.Normal(s, gen, m.Text.FC2.Weight, 0.02)
	}
	for _, b := range m.Blocks {
		b.Init(s, gen)
	}
	m.Final.Init(s, gen)
}
