package main

import (
	"context"
	"fmt"
	"image"
	"sync"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
)

// A previewer draws the sheet of pictures by which a person follows a run.
type previewer struct {
	*sampling.Preview
	vae     *vae.AutoencoderKL
	scaling float64

	warnOnce sync.Once
}

// newPreviewer prepares to draw; nil where the run is to draw nothing.
func newPreviewer(t *trainInput) (*previewer, error) {
	if t.config.SampleEvery <= 0 {
		return nil, nil
	}
	model, factor := t.config.Model, t.vae.Config().Downsample()
	size := image.Pt(factor*model.Width(), factor*model.InputSize)
	p, err := sampling.NewPreview(model, size, t.set.Classes, t.latents, t.config.GlobalSeed)
	if err != nil {
		return nil, err
	}
	process := t.config.Process()
	p.Request.Process = &process
	p.Precision = t.config.Precision
	return &previewer{Preview: p, vae: t.vae, scaling: t.set.ScalingFactor}, nil
}

// numSteps is the number of sampling steps of a sheet, 0 where it is not known.
func (p *previewer) numSteps() int {
	n, _ := p.Request.NumSteps()
	return n
}

// draw draws with the averages of a step, reports the sampling steps that are done, and warns once a run.
func (p *previewer) draw(ctx context.Context, s *torch.Scope, model *dit.DiT, step int, report func(done int),
	warn func(text string)) (image.Image, error) {
	p.Request.Progress = func(done, _ int) { report(done) }
	p.Request.Warn = func(text string) { p.warnOnce.Do(func() { warn("previews: " + text) }) }
	pictures, err := p.Draw(ctx, s, model, p.vae, p.scaling)
	if err != nil {
		return nil, err
	}
	title := fmt.Sprintf("step %d, guidance %g", step, p.Request.CFGScale)
	return sheet.Draw(pictures.Images(), sheet.Options{Labels: p.Labels, Columns: p.Columns, Title: title})
}
