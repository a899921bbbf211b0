package dit

import "fmt"

// A param is the name and shape of one tensor of a model.
type param struct {
	name  string
	shape []int64
}

// layout lists the tensors of a model of this configuration under the published names, in their order.
func (c Config) layout() []param {
	d, p, hidden := int64(c.HiddenSize), int64(c.PatchSize), int64(c.mlpHidden())
	var out []param
	linear := func(name string, in, features int64) {
		out = append(out, param{name + ".weight", []int64{features, in}}, param{name + ".bias", []int64{features}})
	}
	out = append(out, param{posEmbed, []int64{1, int64(c.NumTokens()), d}},
		param{"x_embedder.proj.weight", []int64{d, int64(c.InChannels), p, p}}, param{"x_embedder.proj.bias", []int64{d}})
	linear("t_embedder.mlp.0", frequencyEmbeddingSize, d)
	linear("t_embedder.mlp.2", d, d)
	out = append(out, param{labelTable, []int64{int64(c.tableRows()), d}})
	for i := range c.Depth {
		block := fmt.Sprintf("blocks.%d.", i)
		linear(block+"attn.qkv", d, 3*d)
		linear(block+"attn.proj", d, d)
		linear(block+"mlp.fc1", d, hidden)
		linear(block+"mlp.fc2", hidden, d)
		linear(block+"adaLN_modulation.1", d, 6*d)
	}
	linear("final_layer.linear", d, p*p*int64(c.OutChannels()))
	linear("final_layer.adaLN_modulation.1", d, 2*d)
	return out
}

const (
	posEmbed   = "pos_embed"
	labelTable = "y_embedder.embedding_table.weight"
)
