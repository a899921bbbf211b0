package main

import (
	"cmp"
	"fmt"

	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// subjects are what n pictures are to show: labels, prompts or both, one a picture, nil where the model does not take
// them.
type subjects struct {
	n       int
	labels  []int
	prompts []string
}

// subjects reads the flags that say what to draw, and refuses those that the model does not take.
func (o *sampleOptions) subjects(e *env, info dit.Info) (show subjects, err error) {
	cfg := info.Config
	switch {
	case !cfg.HasText() && o.textGiven:
		return show, usagef("--prompt and the flags for it: the model takes no text, it is a model of %s",
			cfg.Conditions())
	case cfg.HasText() && len(o.prompts) == 0:
		return show, withHint(usagef("sample: --prompt is required: the model takes %s", cfg.Conditions()),
			"as in --prompt 'a red shoe'")
	case !cfg.HasClass() && len(o.classes) > 0:
		return show, usagef("--class-labels: the model has no classes, it is a model of %s", cfg.Conditions())
	case cfg.HasClass() && cfg.HasText() && len(o.classes) == 0:
		return show, usagef("sample: --class-labels is required beside --prompt: the model takes %s", cfg.Conditions())
	}
	var labels []int
	if cfg.HasClass() {
		var found []string
		labels, found, err = parseClasses(o.classes, info, o.numSamples, o.request.Seed)
		for _, line := range found {
			e.printf("classes %s", line)
		}
		if err != nil {
			return show, err
		}
	}
	show.n = cmp.Or(o.numSamples, max(len(labels), len(o.prompts), 1))
	show.labels, show.prompts = spread(labels, show.n), spread(o.prompts, show.n)
	return show, nil
}

// spread gives each of n pictures an element of a list, in order.
func spread[T any](list []T, n int) (each []T) {
	if len(list) == 0 {
		return nil
	}
	for i := range n {
		each = append(each, list[i*len(list)/n])
	}
	return each
}

// encodePrompts encodes the prompts and what guidance steers away from.
func (o *sampleOptions) encodePrompts(p *sampling.Pipeline, prompts []string, dev torch.Device) (
	captions []sampling.Caption, null sampling.Caption, err error) {
	encoder, closeEncoder, err := o.openTextEncoder(p.Info(), dev)
	if err != nil {
		return nil, null, err
	}
	defer closeEncoder()
	if err := p.CheckEncoder(encoder); err != nil {
		return nil, null, fmt.Errorf("%s: %w", cmp.Or(o.textEncoder, o.textStates), err)
	}
	return p.Encode(encoder, prompts, o.negativePrompt)
}

// openTextEncoder opens what --text-encoder or --text-states names.
func (o *sampleOptions) openTextEncoder(info dit.Info, dev torch.Device) (encoder tokens.Encoder, closeEncoder func(),
	err error) {
	if (o.textEncoder == "") == (o.textStates == "") {
		name := ""
		if trained := info.TextEncoder; trained.Name != "" {
			name = fmt.Sprintf(" (%s)", trained.Name)
		}
		return nil, nil, withHint(usagef("sample: --prompt needs one of --text-encoder and --text-states"),
			"give the encoder of the captions that the model was trained with%s", name)
	}
	return openTextEncoder(o.textEncoder, o.textStates, func() (torch.Device, error) { return dev, nil })
}
