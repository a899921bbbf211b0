package dit

import "fmt"

// A param is the name and shape of one tensor of a model.
type param struct {
	name  string
	shape []int64
}

// layout lists the tensors of a model of this configuration under the published names, in their order.
func (c Config) layout() []param {
	out := c.layoutBefore()
	for i := range c.Depth {
		out = append(out, c.layoutOfBlock(fmt.Sprintf("blocks.%d.", i))...)
	}
	return append(out, c.layoutAfter()...)
}

// layoutBefore lists the tensors before the blocks.
func (c Config) layoutBefore() []param {
	d, p := int64(c.HiddenSize), int64(c.PatchSize)
	out := []param{
		{posEmbed, []int64{1, int64(c.NumTokens()), d}},
		{"x_embedder.proj.weight", []int64{d, int64(c.InChannels), p, p}}, {"x_embedder.proj.bias", []int64{d}},
	}
	out = append(out, linear("t_embedder.mlp.0", frequencyEmbeddingSize, d)...)
	out = append(out, linear("t_embedder.mlp.2", d, d)...)
	if c.HasClass() {
		out = append(out, param{labelTable, []int64{int64(c.tableRows()), d}})
	}
	if c.HasText() {
		out = append(out, linear("text_embedder.fc1", int64(c.TextWidth), d)...)
		out = append(out, linear("text_embedder.fc2", d, d)...)
	}
	return out
}

// layoutOfBlock lists the tensors of one block, whose names begin with prefix.
func (c Config) layoutOfBlock(prefix string) (out []param) {
	d, hidden := int64(c.HiddenSize), int64(c.mlpHidden())
	add := func(ps []param) { out = append(out, ps...) }
	if !c.adaptive() {
		add(norm(prefix+"norm1", d))
	}
	add(linear(prefix+"attn.qkv", d, 3*d))
	add(linear(prefix+"attn.proj", d, d))
	if !c.adaptive() {
		add(norm(prefix+"norm2", d))
	}
	if c.Block == CrossAttention || c.adaptive() && c.HasText() {
		add(linear(prefix+"cross_attn.q", d, d))
		add(linear(prefix+"cross_attn.kv", d, 2*d))
		add(linear(prefix+"cross_attn.proj", d, d))
	}
	if c.Block == CrossAttention {
		add(norm(prefix+"norm3", d))
	}
	add(linear(prefix+"mlp.fc1", d, hidden))
	add(linear(prefix+"mlp.fc2", hidden, d))
	switch c.Block {
	case AdaLNZero:
		add(linear(prefix+"adaLN_modulation.1", d, 6*d))
	case AdaLN:
		add(linear(prefix+"adaLN_modulation.1", d, 4*d))
	}
	return out
}

// layoutAfter lists the tensors after the blocks.
func (c Config) layoutAfter() []param {
	d, out := int64(c.HiddenSize), int64(c.PatchSize*c.PatchSize*c.OutChannels())
	if c.adaptive() {
		return append(linear("final_layer.linear", d, out), linear("final_layer.adaLN_modulation.1", d, 2*d)...)
	}
	return append(norm("final_layer.norm_final", d), linear("final_layer.linear", d, out)...)
}

func linear(name string, in, out int64) []param {
	return []param{{name + ".weight", []int64{out, in}}, {name + ".bias", []int64{out}}}
}

func norm(name string, d int64) []param {
	return []param{{name + ".weight", []int64{d}}, {name + ".bias", []int64{d}}}
}

const (
	posEmbed   = "pos_embed"
	labelTable = "y_embedder.embedding_table.weight"
)
