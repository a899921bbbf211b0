package main

import (
	"context"
	"fmt"
	"image"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
)

// A previewer draws the picture by which a person follows a run: samples of up to ten classes or
// captions of the data, from noise that stays the same throughout the run.
type previewer struct {
	vae     *vae.AutoencoderKL
	request sampling.Request
	labels  []string // of the pictures
	perRow  int
	scaling float64
}

const (
	previewShown = 10 // classes or captions
	previewEach  = 4  // pictures of each
	previewSteps = "50"
	previewScale = 4
)

// newPreviewer prepares to draw; without --sample-every there is nothing to.
func newPreviewer(e *env, t *trainInput) (*previewer, error) {
	p := &previewer{}
	if e.flags.Int("sample-every") <= 0 {
		return p, nil
	}
	p.vae, p.scaling, p.perRow = t.vae, t.set.ScalingFactor, previewShown
	p.request = sampling.Request{CFGScale: previewScale, Guided: dit.GuideAll, Steps: previewSteps,
		Seed: e.flags.Uint64("global-seed")}
	if t.config.Model.ClassDropoutProb == 0 {
		p.request.CFGScale = 1
	}
	switch {
	case t.config.Model.HasText():
		return p, p.showCaptions(t.latents, t.config.Model.HasClass())
	case t.config.Model.HasClass():
		names := t.set.Classes
		p.perRow = min(len(names), previewShown)
		for range previewEach {
			for i := range p.perRow {
				label := i * len(names) / p.perRow
				p.request.Labels = append(p.request.Labels, label)
				p.labels = append(p.labels, names[label])
			}
		}
	default:
		p.request.NumSamples = previewShown * previewEach
	}
	return p, nil
}

// showCaptions takes captions from records that lie far from each other, a caption a row.
func (p *previewer) showCaptions(l *latents.Set, classes bool) error {
	text, err := tokens.Of(l)
	if err != nil {
		return err
	}
	texts, err := text.Texts()
	if err != nil {
		return err
	}
	read := func(row int32) (c sampling.Caption, err error) {
		c.States = make([]float32, text.Encoder().Length*text.Encoder().Width)
		c.Length, err = text.Read(int(row), c.States)
		return c, err
	}
	if p.request.Null, err = read(0); err != nil {
		return err
	}
	p.perRow = previewEach
	shown := map[int32]bool{}
	const looks = 10 * previewShown // since neighbours in that order may share a caption
	for i := 0; i < looks && len(shown) < previewShown; i++ {
		record := i * 37 % looks * l.Len() / looks
		row := text.Captions(record)[0]
		if shown[row] {
			continue
		}
		shown[row] = true
		c, err := read(row)
		if err != nil {
			return err
		}
		for range previewEach {
			p.request.Captions, p.labels = append(p.request.Captions, c), append(p.labels, texts[row])
			if classes {
				p.request.Labels = append(p.request.Labels, int(l.Label(record)))
			}
		}
	}
	return nil
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
	images, err := sheet.Batch(made.Pix, z.Dim(0), made.Width, made.Height)
	if err != nil {
		return nil, err
	}
	return sheet.Draw(images, p.labels, p.perRow, fmt.Sprintf("step %d, guidance %g", step, p.request.CFGScale))
}
