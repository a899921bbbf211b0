package main

import (
	"context"
	"fmt"
	"image"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/picture"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
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
	// Of a model without condition there are as many pictures, in rows of previewClasses.
	previewUnconditional = previewClasses * previewPerClass
	previewSteps         = "50"
	previewScale         = 4
)

// newPreviewer prepares to draw; without --sample-every there is nothing to.
func newPreviewer(e *env, t *trainInput) *previewer {
	p := &previewer{}
	if e.flags.Int("sample-every") <= 0 {
		return p
	}
	p.vae, p.scaling = t.vae, t.set.ScalingFactor
	p.request = sampling.Request{CFGScale: previewScale, Guided: dit.GuideAll, Steps: previewSteps, Seed: e.flags.Uint64("global-seed")}
	if t.config.Model.ClassDropoutProb == 0 {
		p.request.CFGScale = 1
	}
	if t.config.Model.Condition == dit.OnNothing {
		p.request.NumSamples = previewUnconditional
		return p
	}
	names := t.set.Classes
	shown := min(len(names), previewClasses)
	for range previewPerClass {
		for i := range shown {
			label := i * len(names) / shown
			p.request.Labels = append(p.request.Labels, label)
			p.labels = append(p.labels, names[label])
		}
	}
	return p
}

func (p *previewer) draw(ctx context.Context, s *torch.Scope, model *dit.DiT, step int) (image.Image, error) {
	z, err := sampling.Latents(ctx, s, model, p.request)
	if err != nil {
		return nil, err
	}
	made, err := sampling.Decode(ctx, s, p.vae, z, p.scaling)
	if err != nil {
		return nil, err
	}
	images, err := picture.Batch(made.Pix, z.Dim(0), made.Width, made.Height)
	if err != nil {
		return nil, err
	}
	return picture.Sheet(images, p.labels, len(images)/previewPerClass, fmt.Sprintf("step %d, guidance %g", step, p.request.CFGScale))
}
