package main

import (
	"context"
	"fmt"
	"image"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/picture"
	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// A previewer draws the picture by which a person follows a run: samples of up to ten classes from
// noise that stays the same throughout the run.
type previewer struct {
	vae     *vae.AutoencoderKL
	request sampling.Request
	labels  []string // of the pictures
	scaling float64
}

const (
	previewClasses  = 10
	previewPerClass = 4
	previewSteps    = "50"
	previewScale    = 4
)

// newPreviewer opens the autoencoder; without --sample-every there is nothing to draw.
func newPreviewer(e *env, dev torch.Device, latents *data.Latents) (*previewer, error) {
	p := &previewer{}
	if e.flags.Int("sample-every") <= 0 {
		return p, nil
	}
	var err error
	if p.vae, err = vae.Open(e.flags.String("vae"), dev); err != nil {
		return nil, err
	}
	if err := latents.CheckVAE(p.vae.WeightsSHA256()); err != nil {
		p.close()
		return nil, withHint(err, "give the --vae that encode-latents was given")
	}
	p.scaling = latents.Manifest().VAE.ScalingFactor
	p.request = sampling.Request{CFGScale: previewScale, Guided: dit.GuideAll, Steps: previewSteps, Seed: e.flags.Uint64("global-seed")}
	if e.flags.Float64("class-dropout-prob") == 0 {
		p.request.CFGScale = 1
	}
	names := latents.Classes()
	shown := min(len(names), previewClasses)
	for range previewPerClass {
		for i := range shown {
			label := i * len(names) / shown
			p.request.Labels = append(p.request.Labels, label)
			p.labels = append(p.labels, names[label])
		}
	}
	return p, nil
}

func (p *previewer) close() {
	if p.vae != nil {
		nn.Close(p.vae)
	}
}

func (p *previewer) draw(ctx context.Context, s *torch.Scope, model *dit.DiT, step int) (image.Image, error) {
	z, err := sampling.Latents(ctx, s, model, p.request)
	if err != nil {
		return nil, err
	}
	pix, side, err := sampling.Decode(ctx, s, p.vae, z, p.scaling)
	if err != nil {
		return nil, err
	}
	images, err := picture.Batch(pix, len(p.labels), side, side)
	if err != nil {
		return nil, err
	}
	return picture.Sheet(images, p.labels, len(p.labels)/previewPerClass, fmt.Sprintf("step %d, guidance %g", step, p.request.CFGScale))
}
