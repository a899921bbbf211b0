package vae

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
	"github.com/ditrun/ditrun/torch/nn"
)

// A naming pairs today's names in diffusers with those of another program or time. Names agree from the
// left up to where the pattern ends, and keep what follows. A star stands for one part, ~ for the number
// of a level of the decoder, which CompVis counts from the other end; names without a pattern are equal.
type naming []struct{ today, other string }

// oldAttention is what diffusers called the attention's layers before 0.18, as in sd-vae-ft-ema's .bin.
var oldAttention = naming{
	{"*.mid_block.attentions.0.to_q", "*.mid_block.attentions.0.query"},
	{"*.mid_block.attentions.0.to_k", "*.mid_block.attentions.0.key"},
	{"*.mid_block.attentions.0.to_v", "*.mid_block.attentions.0.value"},
	{"*.mid_block.attentions.0.to_out.0", "*.mid_block.attentions.0.proj_attn"},
}

// compVis are the names of latent-diffusion and of Stable Diffusion's own checkpoints.
var compVis = naming{
	{"*.conv_norm_out", "*.norm_out"},
	{"encoder.down_blocks.*.resnets.*.conv_shortcut", "encoder.down.*.block.*.nin_shortcut"},
	{"encoder.down_blocks.*.resnets.*", "encoder.down.*.block.*"},
	{"encoder.down_blocks.*.downsamplers.0", "encoder.down.*.downsample"},
	{"decoder.up_blocks.~.resnets.*.conv_shortcut", "decoder.up.~.block.*.nin_shortcut"},
	{"decoder.up_blocks.~.resnets.*", "decoder.up.~.block.*"},
	{"decoder.up_blocks.~.upsamplers.0", "decoder.up.~.upsample"},
	{"*.mid_block.resnets.0", "*.mid.block_1"},
	{"*.mid_block.resnets.1", "*.mid.block_2"},
	{"*.mid_block.attentions.0.group_norm", "*.mid.attn_1.norm"},
	{"*.mid_block.attentions.0.to_q", "*.mid.attn_1.q"},
	{"*.mid_block.attentions.0.to_k", "*.mid.attn_1.k"},
	{"*.mid_block.attentions.0.to_v", "*.mid.attn_1.v"},
	{"*.mid_block.attentions.0.to_out.0", "*.mid.attn_1.proj_out"},
}

// other returns what the naming calls a tensor that is called name today, in a model of so many levels.
func (n naming) other(name string, levels int) string {
	for _, pair := range n {
		if out, ok := rename(name, pair.today, pair.other, levels); ok {
			return out
		}
	}
	return name
}

// rename puts the parts of name that match the stars of from in the places of those of to.
func rename(name, from, to string, levels int) (string, bool) {
	parts, pattern := strings.Split(name, "."), strings.Split(from, ".")
	if len(parts) < len(pattern) {
		return "", false
	}
	var stars []string
	for i, p := range pattern {
		switch {
		case p == "*":
			stars = append(stars, parts[i])
		case p == "~":
			level, err := strconv.Atoi(parts[i])
			if err != nil {
				return "", false
			}
			stars = append(stars, strconv.Itoa(levels-1-level))
		case p != parts[i]:
			return "", false
		}
	}
	out := strings.Split(to, ".")
	for i, p := range out {
		if p == "*" || p == "~" {
			out[i], stars = stars[0], stars[1:]
		}
	}
	return strings.Join(append(out, parts[len(pattern):]...), "."), true
}

// A param is the name and shape of one tensor of a model.
type param struct {
	name  string
	shape []int64
}

// layout lists the tensors of a model under today's names, in the order of its state dict.
func (c Config) layout() (out []param) {
	for name, t := range nn.Params(build(torch.Shapes(), c)) {
		out = append(out, param{name, nn.Shape(t)})
	}
	return out
}

// entries makes the tensors under today's names of those of src. Attention weights may be kept as 1x1
// convolutions [D, D, 1, 1].
func (c Config) entries(src checkpoint.Source, n naming) []namemap.Entry {
	var out []namemap.Entry
	for _, p := range c.layout() {
		part := namemap.Whole(n.other(p.name, len(c.BlockOutChannels)), p.shape...)
		if len(p.shape) == 2 {
			conv := append(slices.Clone(p.shape), 1, 1)
			if info, ok := src.Lookup(part.Name); ok && slices.Equal(info.Shape, conv) {
				part.Shape = conv
			}
		}
		out = append(out, namemap.Entry{Name: p.name, Shape: p.shape, Parts: []namemap.Part{part}})
	}
	return out
}
