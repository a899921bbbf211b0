package vae

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// EncodeMACs returns the multiply-accumulates of encoding one picture of a size. Hardware floating-point operations are
// twice as many.
func (c Config) EncodeMACs(height, width int) float64 {
	m := build(torch.Shapes(), c)
	macs, latent := m.Encoder.macs(float64(height) * float64(width))
	return macs + m.QuantConv.Cost(latent).MACs
}

// DecodeMACs is that of decoding to one picture of a size.
func (c Config) DecodeMACs(height, width int) float64 {
	m := build(torch.Shapes(), c)
	latent := float64(height/c.Downsample()) * float64(width/c.Downsample())
	return m.PostQuantConv.Cost(latent).MACs + m.Decoder.macs(latent)
}

// macs of a picture of so many positions, and the positions of its latent.
func (e *Encoder) macs(positions float64) (macs, latent float64) {
	macs = e.ConvIn.Cost(positions).MACs
	for _, b := range e.DownBlocks {
		for _, r := range b.Resnets {
			macs += r.macs(positions)
		}
		for _, d := range b.Downsamplers {
			positions /= 4
			macs += d.Conv.Cost(positions).MACs
		}
	}
	return macs + e.MidBlock.macs(positions) + e.ConvOut.Cost(positions).MACs, positions
}

// macs of a latent of so many positions.
func (d *Decoder) macs(positions float64) float64 {
	macs := d.ConvIn.Cost(positions).MACs + d.MidBlock.macs(positions)
	for _, b := range d.UpBlocks {
		for _, r := range b.Resnets {
			macs += r.macs(positions)
		}
		for _, u := range b.Upsamplers {
			positions *= 4
			macs += u.Conv.Cost(positions).MACs
		}
	}
	return macs + d.ConvOut.Cost(positions).MACs
}

func (b *MidBlock) macs(positions float64) (macs float64) {
	for _, r := range b.Resnets {
		macs += r.macs(positions)
	}
	for _, a := range b.Attentions {
		macs += a.macs(positions)
	}
	return macs
}

func (b *ResnetBlock) macs(positions float64) float64 {
	cost := nn.Costs(b.Conv1.Cost(positions), b.Conv2.Cost(positions))
	if b.ConvShortcut != nil {
		cost = nn.Costs(cost, b.ConvShortcut.Cost(positions))
	}
	return cost.MACs
}

func (a *Attention) macs(positions float64) float64 {
	width := float64(a.ToOut.Weight.Dim(0))
	return nn.Costs(a.ToQ.Cost(positions), a.ToK.Cost(positions), a.ToV.Cost(positions),
		nn.AttentionCost(positions, positions, width), a.ToOut.Cost(positions)).MACs
}
