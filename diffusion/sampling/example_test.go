package sampling_test

import (
	"context"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/diffusion/sampling/gallery"
	"github.com/ditrun/ditrun/dit/text"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae/encode"
)

// The code of docs/sampling.md. The models of its paths are not here, so it is built and not run.
var (
	_ = drawDog
	_ = drawShoe
	_ = drawMany
)

func drawDog(ctx context.Context) error {
	p, err := sampling.Open(torch.CPU, "results/000-DiT-XL-2", "vae", "")
	if err != nil {
		return err
	}
	defer p.Close()
	pictures, err := p.Sample(ctx, sampling.Request{Labels: []int{207, 360}, CFGScale: 4})
	if err != nil {
		return err
	}
	return sheet.WritePNG("dog.png", pictures.Images()[0])
}

func drawShoe(ctx context.Context, p *sampling.Pipeline) (sampling.Pictures, error) {
	encoder, err := text.Open("clip", torch.CPU)
	if err != nil {
		return sampling.Pictures{}, err
	}
	defer encoder.Close()
	r := sampling.Request{CFGScale: 4}
	r.Captions, r.Null, err = p.Encode(encode.TextEncoder(encoder), []string{"a red shoe"}, "")
	if err != nil {
		return sampling.Pictures{}, err
	}
	return p.Sample(ctx, r)
}

func drawMany(ctx context.Context, p *sampling.Pipeline, r sampling.Request) error {
	set := gallery.Set{Count: r.Len(), BatchSize: r.BatchSize, Labels: r.Labels, Classes: p.Info().Classes,
		Key: func() (string, error) { return p.Key(r) }}
	set.Height, set.Width = p.PictureSize()
	out, err := gallery.Open(ctx, "pictures.npz", set)
	if err != nil {
		return err
	}
	defer out.Close()
	return gallery.Draw(ctx, p, r, out)
}
