package dit

import (
	"fmt"
	"strings"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// A param is the name and shape of one tensor of a model.
type param struct {
	name  string
	shape []int64
}

const (
	posEmbed   = "pos_embed"
	labelTable = "y_embedder.embedding_table.weight"
	firstBlock = "blocks.0."
)

// outline makes the model of a valid configuration without elements and with one block, which stands for all.
func (c Config) outline() *DiT {
	c.Depth = 1
	m, err := New(torch.Shapes(), c)
	if err != nil {
		panic(fmt.Sprintf("dit: outline of a configuration that is not valid: %v", err))
	}
	return m
}

// layout lists the tensors of a model of this configuration under the published names, in their order.
func (c Config) layout() []param {
	var before, block, after []param
	for _, p := range nn.List(c.outline()) {
		shape := nn.Shape(p.Tensor)
		switch name, ok := strings.CutPrefix(p.Name, firstBlock); {
		case ok:
			block = append(block, param{name, shape})
		case block == nil:
			before = append(before, param{p.Name, shape})
		default:
			after = append(after, param{p.Name, shape})
		}
	}
	for i := range c.Depth {
		for _, p := range block {
			before = append(before, param{fmt.Sprintf("blocks.%d.%s", i, p.name), p.shape})
		}
	}
	return append(before, after...)
}
