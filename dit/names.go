package dit

import (
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
)

// diffusersNames pairs the published names of layers with those of diffusers' DiTTransformer2DModel. A
// star is the number of a block; where it stands on the right alone, every block has a copy. Several
// names on the right share the rows of the left in equal parts. Positions have no name there: diffusers
// computes them.
var diffusersNames = []struct {
	official  string
	diffusers []string
}{
	{"x_embedder.proj", []string{"pos_embed.proj"}},
	{"t_embedder.mlp.0", []string{"transformer_blocks.*.norm1.emb.timestep_embedder.linear_1"}},
	{"t_embedder.mlp.2", []string{"transformer_blocks.*.norm1.emb.timestep_embedder.linear_2"}},
	{"y_embedder.embedding_table", []string{"transformer_blocks.*.norm1.emb.class_embedder.embedding_table"}},
	{"blocks.*.attn.qkv", []string{"transformer_blocks.*.attn1.to_q", "transformer_blocks.*.attn1.to_k",
		"transformer_blocks.*.attn1.to_v"}},
	{"blocks.*.attn.proj", []string{"transformer_blocks.*.attn1.to_out.0"}},
	{"blocks.*.mlp.fc1", []string{"transformer_blocks.*.ff.net.0.proj"}},
	{"blocks.*.mlp.fc2", []string{"transformer_blocks.*.ff.net.2"}},
	{"blocks.*.adaLN_modulation.1", []string{"transformer_blocks.*.norm1.linear"}},
	{"final_layer.linear", []string{"proj_out_2"}},
	{"final_layer.adaLN_modulation.1", []string{"proj_out_1"}},
}

// inDiffusers returns the names under which diffusers keeps the tensor called name: copies of it, each
// a list of parts of its rows. It is nil for a tensor that diffusers does not keep.
func inDiffusers(name string, depth int) (copies [][]string) {
	layer, kind := name[:strings.LastIndex(name, ".")+1], name[strings.LastIndex(name, ".")+1:]
	layer = strings.TrimSuffix(layer, ".")
	block := ""
	if rest, ok := strings.CutPrefix(layer, "blocks."); ok {
		block, rest, _ = strings.Cut(rest, ".")
		layer = "blocks.*." + rest
	}
	for _, pair := range diffusersNames {
		if pair.official != layer {
			continue
		}
		count := 1
		if block == "" && strings.Contains(pair.diffusers[0], "*") {
			count = depth
		}
		for i := range count {
			number := block
			if block == "" {
				number = strconv.Itoa(i)
			}
			var parts []string
			for _, p := range pair.diffusers {
				parts = append(parts, strings.Replace(p, "*", number, 1)+"."+kind)
			}
			copies = append(copies, parts)
		}
	}
	return copies
}

// rowsOf is the shape of one of n equal parts of the rows of shape.
func rowsOf(shape []int64, n int) []int64 {
	return append([]int64{shape[0] / int64(n)}, shape[1:]...)
}

// diffusersTableClasses is the number of classes that the table of labels has in a diffusers folder: the
// null class of its DiTPipeline is always 1000.
func (c Config) diffusersTableClasses() int { return max(c.NumClasses, 1000) }

// fromDiffusers makes the published tensors of those in a diffusers file, whose table of labels is for
// tableClasses classes.
func (c Config) fromDiffusers(tableClasses int) []namemap.Entry {
	var out []namemap.Entry
	for _, p := range c.layout() {
		e := namemap.Entry{Name: p.name, Shape: p.shape}
		copies := inDiffusers(p.name, c.Depth)
		switch {
		case p.name == posEmbed:
			e.Parts = []namemap.Part{namemap.Values(c.positions())}
		case p.name == labelTable && int64(tableClasses+1) != p.shape[0]:
			table := namemap.Whole(copies[0][0], int64(tableClasses+1), p.shape[1])
			classes, null := table, table
			classes.To = int64(c.NumClasses)
			null.From, null.To = int64(tableClasses), int64(tableClasses+1)
			e.Parts = []namemap.Part{classes, null}
			if c.ClassDropoutProb == 0 {
				e.Parts = e.Parts[:1]
			}
		default:
			for _, name := range copies[0] {
				e.Parts = append(e.Parts, namemap.Whole(name, rowsOf(p.shape, len(copies[0]))...))
			}
		}
		out = append(out, e)
	}
	return out
}

// toDiffusers makes the tensors of a diffusers file of the published ones.
func (c Config) toDiffusers() []namemap.Entry {
	var out []namemap.Entry
	for _, p := range c.layout() {
		for _, parts := range inDiffusers(p.name, c.Depth) {
			shape := rowsOf(p.shape, len(parts))
			for i, name := range parts {
				part := namemap.Whole(p.name, p.shape...)
				part.From, part.To = int64(i)*shape[0], int64(i+1)*shape[0]
				e := namemap.Entry{Name: name, Shape: shape, Parts: []namemap.Part{part}}
				if p.name == labelTable {
					e = c.diffusersTable(name, part)
				}
				out = append(out, e)
			}
		}
	}
	return out
}

// diffusersTable puts the null class at the end of a table of at least 1000 classes. The rows between
// repeat the last one: nothing asks for them.
func (c Config) diffusersTable(name string, table namemap.Part) namemap.Entry {
	rows := int64(c.diffusersTableClasses() + 1)
	last := table
	last.From = last.To - 1
	parts := []namemap.Part{table}
	for range rows - table.To {
		parts = append(parts, last)
	}
	return namemap.Entry{Name: name, Shape: []int64{rows, int64(c.HiddenSize)}, Parts: parts}
}

// official makes the published tensors of those in a file that has their names. Positions that the file
// lacks are computed.
func (c Config) official(src checkpoint.Source) []namemap.Entry {
	var out []namemap.Entry
	for _, p := range c.layout() {
		part := namemap.Whole(p.name, p.shape...)
		if _, ok := src.Lookup(p.name); !ok && p.name == posEmbed {
			part = namemap.Values(c.positions())
		}
		out = append(out, namemap.Entry{Name: p.name, Shape: p.shape, Parts: []namemap.Part{part}})
	}
	return out
}
