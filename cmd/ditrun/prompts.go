package main

import (
	"fmt"

	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/dit/text"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae/encode"
)

// What is asked for: labels, prompts or both, nil where the model does not take them.
type asked struct {
	labels  []int
	prompts []string
}

func (a asked) len() int { return max(len(a.labels), len(a.prompts), 1) }

// spread gives n pictures the labels and prompts, each list in order.
func (a asked) spread(n int) (out asked) {
	for i := range n {
		if a.labels != nil {
			out.labels = append(out.labels, a.labels[i*len(a.labels)/n])
		}
		if a.prompts != nil {
			out.prompts = append(out.prompts, a.prompts[i*len(a.prompts)/n])
		}
	}
	return out
}

// parseCondition reads the flags that say what to draw, and refuses those that the model does not take.
func (e *env) parseCondition(info dit.Info) (a asked, err error) {
	c, cfg := e.flags, info.Config
	if list := *c.Generic("prompt").(*textList); len(list) > 0 {
		a.prompts = list
	}
	classes := *c.Generic("class-labels").(*textList)
	switch {
	case !cfg.HasText() && (a.prompts != nil || c.IsSet("negative-prompt") || c.IsSet("text-encoder") ||
		c.IsSet("text-states")):
		return a, usagef("--prompt and what belongs to it: the model takes no text, it is one of %s", cfg.Conditions())
	case cfg.HasText() && a.prompts == nil:
		return a, withHint(usagef("sample: --prompt is required: the model takes %s", cfg.Conditions()),
			"as in --prompt 'a red shoe'")
	case !cfg.HasClass() && len(classes) > 0:
		return a, usagef("--class-labels: the model has no classes, it is one of %s", cfg.Conditions())
	case cfg.HasClass() && cfg.HasText() && len(classes) == 0:
		return a, usagef("sample: --class-labels is required beside --prompt: the model takes %s", cfg.Conditions())
	}
	if cfg.HasClass() {
		var found []string
		a.labels, found, err = parseClasses(classes, info)
		for _, line := range found {
			e.printf("classes %s", line)
		}
	}
	return a, err
}

// encodePrompts encodes prompts and what guidance leads away from, by the encoder that the model was trained with.
func (e *env) encodePrompts(info dit.Info, prompts []string, dev torch.Device) (captions []sampling.Caption,
	null sampling.Caption, err error) {
	encoder, closeEncoder, err := e.openPromptEncoder(info, dev)
	if err != nil {
		return nil, null, err
	}
	defer closeEncoder()
	texts, place := []string{e.flags.String("negative-prompt")}, map[string]int{}
	for _, p := range prompts {
		if _, ok := place[p]; !ok {
			place[p] = len(texts)
			texts = append(texts, p)
		}
	}
	// States of fewer tokens are filled up: what is past the end of a caption is not looked at.
	n, room := encoder.Info().Length*encoder.Info().Width, info.Config.TextLength*info.Config.TextWidth
	states, lengths := make([]float32, len(texts)*n), make([]int32, len(texts))
	if err := encoder.Encode(texts, states, lengths); err != nil {
		return nil, null, err
	}
	encoded := make([]sampling.Caption, len(texts)) // pictures of one prompt share it
	for i := range encoded {
		filled := append(make([]float32, 0, room), states[i*n:(i+1)*n]...)[:room]
		encoded[i] = sampling.Caption{States: filled, Length: int(lengths[i])}
	}
	for _, p := range prompts {
		captions = append(captions, encoded[place[p]])
	}
	return captions, encoded[0], nil
}

// openPromptEncoder opens what --text-encoder or --text-states names, and holds it against the model.
func (e *env) openPromptEncoder(info dit.Info, dev torch.Device) (encoder tokens.Encoder, closeIt func(), err error) {
	dir, file := e.flags.String("text-encoder"), e.flags.String("text-states")
	fail := func(err error) (tokens.Encoder, func(), error) {
		if closeIt != nil {
			closeIt()
		}
		return nil, nil, err
	}
	trained := info.TextEncoder
	location := dir
	switch {
	case (dir == "") == (file == ""):
		name := ""
		if trained.Name != "" {
			name = fmt.Sprintf(" (%s)", trained.Name)
		}
		return fail(withHint(usagef("sample: --prompt needs one of --text-encoder and --text-states"),
			"give the encoder of the captions that the model was trained with%s", name))
	case dir != "":
		model, err := text.Open(dir, dev)
		if err != nil {
			return fail(err)
		}
		encoder, closeIt = encode.TextEncoder(model), model.Close
	default:
		states, err := tokens.OpenStates(file)
		if err != nil {
			return fail(err)
		}
		location, encoder, closeIt = file, states, func() { states.Close() }
	}
	got, cfg := encoder.Info(), info.Config
	// The checksum of a file of states is that of the captions in it: the prompts are others.
	same := got.Name == trained.Name && (file != "" || got.SHA256 == trained.SHA256)
	switch {
	case got.Length > cfg.TextLength || got.Width != cfg.TextWidth:
		return fail(fmt.Errorf("text encoder %s makes %d tokens of width %d, the model takes up to %d of width %d",
			location, got.Length, got.Width, cfg.TextLength, cfg.TextWidth))
	case trained != (dit.TextEncoder{}) && !same:
		return fail(fmt.Errorf("text encoder %s is %s (%.12s), the model was trained with %s (%.12s)", location,
			got.Name, got.SHA256, trained.Name, trained.SHA256))
	}
	return encoder, closeIt, nil
}
