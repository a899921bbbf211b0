package sampling

import (
	"context"
	"fmt"
	"image"
	"strconv"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// A Preview is what a person follows a training run by: pictures of up to ten classes or captions of the data, from
// noise that stays the same throughout the run.
type Preview struct {
	Request Request
	Labels  []sheet.Label // of the pictures: classes or captions; nil for a model without condition
	Columns int           // pictures in a row; 0 for what suits a sheet
	// Precision of both models, see [Options]. Weights are cast once a call of Draw.
	Precision nn.Precision
}

const (
	previewShown = 10 // classes or captions
	previewEach  = 4  // pictures of each
	previewSteps = "50"
	previewScale = 4
)

// NewPreview chooses what to draw with a model that is trained on data with these names of classes: pictures of a size,
// of which a sheet holds as many. Captions are those of set, which is read for a model of text alone.
func NewPreview(model dit.Config, size image.Point, names []string, set *latents.Set, seed uint64) (*Preview, error) {
	p := &Preview{Request: Request{CFGScale: previewScale, Guided: dit.GuideAll, Steps: previewSteps, Seed: seed}}
	if model.ClassDropoutProb == 0 {
		p.Request.CFGScale = 1
	}
	columns, rows := sheet.Most(size)
	switch {
	case model.HasText(): // a caption a row
		return p, p.addCaptions(set, model.HasClass(), min(previewShown, rows), min(previewEach, columns))
	case model.HasClass(): // a class a column
		p.Columns = min(len(names), previewShown, columns)
		for range min(previewEach, rows) {
			for i := range p.Columns {
				label := i * len(names) / p.Columns
				p.Request.Labels = append(p.Request.Labels, label)
				p.Labels = append(p.Labels, sheet.Label{Text: classes.Short(names[label]), Else: strconv.Itoa(label)})
			}
		}
	default:
		p.Request.NumSamples = min(previewShown*previewEach, columns*rows)
	}
	return p, nil
}

// addCaptions takes captions from records that lie far from each other, and so many pictures of each.
func (p *Preview) addCaptions(set *latents.Set, withLabels bool, most, each int) error {
	captions, err := tokens.Of(set)
	if err != nil {
		return err
	}
	texts, err := captions.Texts()
	if err != nil {
		return err
	}
	read := func(row int32) (c Caption, err error) {
		c.States = make([]float32, captions.Encoder().Length*captions.Encoder().Width)
		c.Length, err = captions.Read(int(row), c.States)
		return c, err
	}
	if p.Request.Null, err = read(0); err != nil {
		return err
	}
	p.Columns = each
	shown := map[int32]bool{}
	const tries = 10 * previewShown // since neighbours in that order may share a caption
	for i := 0; i < tries && len(shown) < most; i++ {
		record := i * 37 % tries * set.Len() / tries
		row := captions.Captions(record)[0]
		if shown[row] {
			continue
		}
		shown[row] = true
		c, err := read(row)
		if err != nil {
			return err
		}
		label := sheet.Label{Text: texts[row], Else: fmt.Sprintf("caption of record %d", record)}
		for range each {
			p.Request.Captions, p.Labels = append(p.Request.Captions, c), append(p.Labels, label)
			if withLabels {
				p.Request.Labels = append(p.Request.Labels, int(set.Label(record)))
			}
		}
	}
	return nil
}

// Draw draws the pictures in the scope s, from latents of a scaling factor.
func (p *Preview) Draw(ctx context.Context, s *torch.Scope, model *dit.DiT, v *vae.AutoencoderKL,
	scalingFactor float64) (Pictures, error) {
	precision := p.Precision.On(s.Device())
	if err := precision.Validate(); err != nil {
		return Pictures{}, err
	}
	s = precision.Scope(s)
	z, err := p.latents(ctx, s, model.As(s, precision.DType()))
	if err != nil {
		return Pictures{}, err
	}
	return Decode(ctx, s, v.As(s, precision.DType()), z, scalingFactor)
}

// latents are drawn with neither graph nor table of modulations, which would need memory beside a training step.
func (p *Preview) latents(ctx context.Context, s *torch.Scope, model *dit.DiT) (*torch.Tensor, error) {
	d, err := newDrawing(model, p.Request)
	if err != nil {
		return nil, err
	}
	d.capture, d.room = false, 0
	return d.latents(ctx, s)
}
