package vae

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// normEps is the epsilon of every GroupNorm of the model; PyTorch's default is another.
const normEps = 1e-6

// ResnetBlock is two convolutions beside a shortcut.
type ResnetBlock struct {
	Norm1        nn.GroupNorm `dit:"norm1"`
	Conv1        nn.Conv2d    `dit:"conv1"`
	Norm2        nn.GroupNorm `dit:"norm2"`
	Conv2        nn.Conv2d    `dit:"conv2"`
	ConvShortcut *nn.Conv2d   `dit:"conv_shortcut"` // nil where the width stays
}

func newResnetBlock(s *torch.Scope, in, out, groups int) *ResnetBlock {
	b := &ResnetBlock{
		Norm1: nn.NewGroupNorm(s, groups, in, normEps), Conv1: nn.NewConv2d(s, in, out, 3, 1, 1),
		Norm2: nn.NewGroupNorm(s, groups, out, normEps), Conv2: nn.NewConv2d(s, out, out, 3, 1, 1),
	}
	if in != out {
		shortcut := nn.NewConv2d(s, in, out, 1, 1, 0)
		b.ConvShortcut = &shortcut
	}
	return b
}

// Forward maps x [N, in, H, W] to [N, out, H, W].
func (b *ResnetBlock) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		h := b.Conv1.Forward(s, b.Norm1.SiLU(s, x))
		h = b.Conv2.Forward(s, b.Norm2.SiLU(s, h))
		if b.ConvShortcut != nil {
			x = b.ConvShortcut.Forward(s, x) // of the raw input, not of the normalised one
		}
		return s.Add(x, h)
	})
}

// Attention is self-attention over all positions with one head of the full width.
type Attention struct {
	GroupNorm nn.GroupNorm `dit:"group_norm"`
	ToQ       nn.Linear    `dit:"to_q"`
	ToK       nn.Linear    `dit:"to_k"`
	ToV       nn.Linear    `dit:"to_v"`
	ToOut     nn.Linear    `dit:"to_out.0"`
}

func newAttention(s *torch.Scope, width, groups int) *Attention {
	linear := func() nn.Linear { return nn.NewLinear(s, width, width) }
	return &Attention{nn.NewGroupNorm(s, groups, width, normEps), linear(), linear(), linear(), linear()}
}

// Forward maps x [N, D, H, W] to the same shape.
func (a *Attention) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		n, d, h, w := x.Dim(0), x.Dim(1), x.Dim(2), x.Dim(3)
		t := s.Transpose(s.Reshape(a.GroupNorm.Forward(s, x), n, 1, d, h*w), 2, 3) // [N, 1, H W, D]
		t = s.Contiguous(t)
		t = s.ScaledDotProductAttention(a.ToQ.Forward(s, t), a.ToK.Forward(s, t), a.ToV.Forward(s, t))
		t = s.Reshape(s.Transpose(a.ToOut.Forward(s, t), 2, 3), n, d, h, w)
		return s.Add(x, t)
	})
}

// MidBlock is the coarsest level: resnet, attention, resnet.
type MidBlock struct {
	Attentions []*Attention   `dit:"attentions"`
	Resnets    []*ResnetBlock `dit:"resnets"`
}

func newMidBlock(s *torch.Scope, width, groups int) MidBlock {
	return MidBlock{
		Attentions: []*Attention{newAttention(s, width, groups)},
		Resnets:    []*ResnetBlock{newResnetBlock(s, width, width, groups), newResnetBlock(s, width, width, groups)},
	}
}

// Forward maps x [N, D, H, W] to the same shape.
func (b *MidBlock) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	x = b.Resnets[0].Forward(s, x)
	x = b.Attentions[0].Forward(s, x)
	return b.Resnets[1].Forward(s, x)
}

// Downsampler halves height and width.
type Downsampler struct {
	Conv nn.Conv2d `dit:"conv"`
}

// Forward maps x [N, D, H, W] to [N, D, H/2, W/2].
func (d *Downsampler) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		// Zeros on the right and at the bottom alone: padding all round would shift by half a pixel.
		return d.Conv.Forward(s, s.Pad(x, []int{0, 1, 0, 1}))
	})
}

// Upsampler doubles height and width.
type Upsampler struct {
	Conv nn.Conv2d `dit:"conv"`
}

// Forward maps x [N, D, H, W] to [N, D, 2H, 2W].
func (u *Upsampler) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor { return u.Conv.Forward(s, s.UpsampleNearest2x(x)) })
}

// DownBlock is one level of the encoder. The last level has no downsampler.
type DownBlock struct {
	Resnets      []*ResnetBlock `dit:"resnets"`
	Downsamplers []*Downsampler `dit:"downsamplers"`
}

// Forward maps x [N, in, H, W] to [N, out, H/2, W/2], or to [N, out, H, W] on the last level.
func (b *DownBlock) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	for _, r := range b.Resnets {
		x = r.Forward(s, x)
	}
	for _, d := range b.Downsamplers {
		x = d.Forward(s, x)
	}
	return x
}

// UpBlock is one level of the decoder. The last level has no upsampler.
type UpBlock struct {
	Resnets    []*ResnetBlock `dit:"resnets"`
	Upsamplers []*Upsampler   `dit:"upsamplers"`
}

// Forward maps x [N, in, H, W] to [N, out, 2H, 2W], or to [N, out, H, W] on the last level.
func (b *UpBlock) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	for _, r := range b.Resnets {
		x = r.Forward(s, x)
	}
	for _, u := range b.Upsamplers {
		x = u.Forward(s, x)
	}
	return x
}

// Encoder maps an image to the moments of its latent, before the last 1x1 convolution.
type Encoder struct {
	ConvIn      nn.Conv2d    `dit:"conv_in"`
	DownBlocks  []*DownBlock `dit:"down_blocks"`
	MidBlock    MidBlock     `dit:"mid_block"`
	ConvNormOut nn.GroupNorm `dit:"conv_norm_out"`
	ConvOut     nn.Conv2d    `dit:"conv_out"`
}

func newEncoder(s *torch.Scope, c Config) Encoder {
	widths, groups := c.BlockOutChannels, c.NormNumGroups
	e := Encoder{ConvIn: nn.NewConv2d(s, c.InChannels, widths[0], 3, 1, 1)}
	width := widths[0]
	for i, out := range widths {
		b := &DownBlock{}
		for range c.LayersPerBlock {
			b.Resnets = append(b.Resnets, newResnetBlock(s, width, out, groups))
			width = out
		}
		if i < len(widths)-1 {
			b.Downsamplers = []*Downsampler{{nn.NewConv2d(s, width, width, 3, 2, 0)}}
		}
		e.DownBlocks = append(e.DownBlocks, b)
	}
	e.MidBlock = newMidBlock(s, width, groups)
	e.ConvNormOut = nn.NewGroupNorm(s, groups, width, normEps)
	e.ConvOut = nn.NewConv2d(s, width, 2*c.LatentChannels, 3, 1, 1)
	return e
}

// Forward maps x [N, in, H, W] to [N, 2C, h, w].
func (e *Encoder) Forward(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		x := e.ConvIn.Forward(s, x)
		for _, b := range e.DownBlocks {
			x = b.Forward(s, x)
		}
		x = e.MidBlock.Forward(s, x)
		return e.ConvOut.Forward(s, e.ConvNormOut.SiLU(s, x))
	})
}

// Decoder maps a latent, after the first 1x1 convolution, to an image.
type Decoder struct {
	ConvIn      nn.Conv2d    `dit:"conv_in"`
	UpBlocks    []*UpBlock   `dit:"up_blocks"` // in the order they run: coarsest first
	MidBlock    MidBlock     `dit:"mid_block"` // runs before the up blocks, although the state dict names it after them
	ConvNormOut nn.GroupNorm `dit:"conv_norm_out"`
	ConvOut     nn.Conv2d    `dit:"conv_out"`
}

func newDecoder(s *torch.Scope, c Config) Decoder {
	widths, groups := c.BlockOutChannels, c.NormNumGroups
	width := widths[len(widths)-1]
	d := Decoder{ConvIn: nn.NewConv2d(s, c.LatentChannels, width, 3, 1, 1), MidBlock: newMidBlock(s, width, groups)}
	for i := range widths {
		out := widths[len(widths)-1-i]
		b := &UpBlock{}
		for range c.LayersPerBlock + 1 {
			b.Resnets = append(b.Resnets, newResnetBlock(s, width, out, groups))
			width = out
		}
		if i < len(widths)-1 {
			b.Upsamplers = []*Upsampler{{nn.NewConv2d(s, width, width, 3, 1, 1)}}
		}
		d.UpBlocks = append(d.UpBlocks, b)
	}
	d.ConvNormOut = nn.NewGroupNorm(s, groups, width, normEps)
	d.ConvOut = nn.NewConv2d(s, width, c.OutChannels, 3, 1, 1)
	return d
}

// Forward maps z [N, C, h, w] to [N, out, H, W].
func (d *Decoder) Forward(s *torch.Scope, z *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		x := d.MidBlock.Forward(s, d.ConvIn.Forward(s, z))
		for _, b := range d.UpBlocks {
			x = b.Forward(s, x)
		}
		return d.ConvOut.Forward(s, d.ConvNormOut.SiLU(s, x))
	})
}
