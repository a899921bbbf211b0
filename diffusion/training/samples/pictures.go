package samples

import (
	"context"
	"iter"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
)

// Pictures is the source of pictures that v, on the device of the run, encodes as they are needed: nothing is kept on
// disk, and every step pays for it. Checkpoints call the autoencoder vaeName. Crops are of the given size, decoded by
// so many workers.
func Pictures(src catalog.Source, v *vae.AutoencoderKL, vaeName string, size picture.Size, workers int) (Source,
	error) {
	cfg := v.Config()
	if err := cfg.CheckImageSize(size.Height, size.Width); err != nil {
		return nil, err
	}
	return pictures{src, v, workers, Set{
		Kind: "pictures", Samples: src.Len(), Classes: src.Classes(), Channels: cfg.LatentChannels,
		Height: size.Height / cfg.Downsample(), Width: size.Width / cfg.Downsample(), ImageSize: size, Flip: true,
		ScalingFactor: cfg.ScalingFactor, Hash: src.Hash(), VAE: v.WeightsSHA256(), VAEName: vaeName,
		Orientation: catalog.OrientationOf(src), LeftOut: catalog.Missing(src),
	}}, nil
}

type pictures struct {
	src     catalog.Source
	vae     *vae.AutoencoderKL
	workers int
	set     Set
}

func (p pictures) Set() Set { return p.set }

// Input is the pixels, from which the autoencoder makes the moments.
func (p pictures) Input() Input {
	return Input{torch.Uint8, []int{p.set.ImageSize.Height, p.set.ImageSize.Width, 3},
		func(s *torch.Scope, data *torch.Tensor) *torch.Tensor {
			s = s.NoGrad()
			mean, logvar := p.vae.Encode(s, vae.PixelsOf(s, data))
			return s.Cat([]*torch.Tensor{mean, logvar}, 1)
		}}
}

// PictureName returns that of a sample.
func (p pictures) PictureName(id int) string { return p.src.Sample(id).Name }

func (p pictures) Batches(ctx context.Context, o stream.Options) iter.Seq2[Batch, error] {
	images := stream.ImageOptions{Size: p.set.ImageSize, Batch: o.GlobalBatch, Workers: p.workers, Seed: o.Seed,
		FlipProb:  o.FlipProb,
		StartStep: o.StartStep, MaxSteps: o.MaxSteps, Epochs: o.Epochs, Share: o.Share}
	return func(yield func(Batch, error) bool) {
		for b, err := range stream.Images(ctx, p.src, images) {
			if err != nil {
				yield(Batch{}, err)
				return
			}
			if !yield(Batch{&stream.Batch{Position: b.Position, IDs: b.IDs, Labels: b.Labels,
				WaitSeconds: b.WaitSeconds}, b.Pix}, nil) {
				return
			}
		}
	}
}
