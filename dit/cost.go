package dit

import (
	"strings"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// NumParams returns the number of elements of all parameters, the fixed positions included.
func (c Config) NumParams() (n float64) {
	for _, p := range nn.List(c.outline()) {
		of := 1.0
		for _, d := range p.Tensor.Shape() {
			of *= float64(d)
		}
		if strings.HasPrefix(p.Name, firstBlock) {
			of *= float64(c.Depth)
		}
		n += of
	}
	return n
}

// cost is what one forward pass of one sample takes, with TextLength tokens of text.
func (c Config) cost() nn.Cost {
	m := c.outline()
	tokens, context := float64(c.NumTokens()), c.context()
	cost := nn.Costs(m.XEmbedder.Proj.Cost(tokens), m.TEmbedder.Cost(), m.Final.Cost(tokens, 0))
	if m.Text != nil {
		length := float64(c.TextLength)
		shared := nn.Cost{Saved: length * float64(c.HiddenSize)} // what all blocks take
		cost = nn.Costs(cost, m.Text.Cost(length), shared)
	}
	if m.design.InSequence {
		tokens, context = tokens+context, 0
	}
	block, depth := m.Blocks[0].Cost(tokens, context), float64(c.Depth)
	return nn.Costs(cost, nn.Cost{MACs: depth * block.MACs, Saved: depth * block.Saved, Float32: depth * block.Float32})
}

// perSample is the cost of layers that map one vector a sample, [N, D]: what they keep is too little to count.
func perSample(c nn.Cost) nn.Cost { return nn.Cost{MACs: c.MACs} }

// MACs returns the multiply-accumulates of one forward pass of one sample, which the paper's tables
// call Gflops, with TextLength tokens of text. Hardware floating-point operations are twice as many.
func (c Config) MACs() float64 { return c.cost().MACs }

// context is the number S of tokens of the conditioning.
func (c Config) context() float64 {
	n := float64(c.TextLength)
	if design, _ := c.design(); !design.Adaptive {
		if n++; c.HasClass() {
			n++
		}
	}
	return n
}

// ActivationBytes returns the memory that a training step holds between the forward and the backward pass for one
// sample, with matrix products in dtype: what the layers keep for their gradients. The tensors of [N, D] are left out.
// On a CPU it is within a tenth of what a process grows by (docs/blocks.md).
func (c Config) ActivationBytes(dtype torch.DType) float64 {
	cost := c.cost()
	return float64(dtype.Size())*(cost.Saved-cost.Float32) + float64(torch.Float32.Size())*cost.Float32
}

// StateBytes returns the memory that training holds throughout: weights, their gradients, AdamW's two moments
// and the average of the weights, all Float32. In BFloat16 gradients take half of that, and copies of the weights the
// other half; without libditcuda.so a step casts the gradients to Float32 for a moment.
func (c Config) StateBytes() float64 { return 5 * 4 * c.NumParams() }
