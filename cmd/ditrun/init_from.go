package main

import (
	"cmp"
	"fmt"

	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
)

// initialWeights opens the weights of --init-from, fits them to the latents, and makes the model theirs; nil without
// that flag. What had to be changed is printed.
func (o *trainOptions) initialWeights(e *env, set samples.Set) (*dit.Weights, error) {
	from, named := o.initFrom, o.config.Model
	if from == "" {
		return nil, nil
	}
	given := ""
	if o.given("model") {
		given = o.model
	}
	w, err := dit.Read(from, given)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*dit.Weights, error) {
		w.Close()
		return nil, err
	}
	if given == "" {
		o.model = w.Config.Name() // for config.yaml
	} else if w.Config.Name() != named.Name() {
		return fail(usagef("--init-from %s holds %s, --model asks for %s", from, w.Config.Name(), named.Name()))
	}
	for _, d := range []struct {
		flag        string
		holds, asks fmt.Stringer
	}{{"block", w.Config.Block, named.Block}, {"condition", w.Config.Condition, named.Condition}} {
		if d.holds != d.asks && (o.given(d.flag) || d.flag == "condition" && o.unconditional) {
			return fail(usagef("--init-from %s holds a model of %s %s, --%s asks for %s", from, d.flag, d.holds, d.flag,
				d.asks))
		}
	}
	if set.Channels != w.Config.InChannels {
		return fail(fmt.Errorf("--init-from %s is for latents of %d channels, %s has %d", from, w.Config.InChannels,
			set.Name, set.Channels))
	}
	if text := set.Text; w.Config.HasText() && text != nil && text.Encoder.Width != w.Config.TextWidth {
		return fail(fmt.Errorf("--init-from %s takes captions of width %d, those of %s have %d", from,
			w.Config.TextWidth, set.Name, text.Encoder.Width))
	}
	e.item("start", w.String())
	change := dit.Changes{InputSize: set.Height, InputWidth: set.Width, Seed: o.config.GlobalSeed}
	if w.Config.Condition != dit.OnNothing {
		change.ClassDropoutProb = &o.classDropoutProb
	}
	if w.Config.HasClass() {
		change.NumClasses = o.numClasses
		if n := len(set.Classes); change.NumClasses == 0 || change.NumClasses == n {
			change.Classes = set.Classes
		}
	}
	changes, err := w.Adapt(change)
	if err != nil {
		return fail(fmt.Errorf("--init-from %s: %w", from, err))
	}
	for _, line := range append(w.Notes, changes...) {
		e.item("", line)
	}
	o.config.Model, o.config.Init = w.Config, w.Source
	return w, nil
}

// compareAutoencoders warns where the weights of --init-from know latents of another autoencoder than those of the run.
func (t *trainJob) compareAutoencoders() {
	w, set := t.weights, &t.set
	if w.VAE == "" || set.VAE == "" || w.VAE == set.VAE {
		return
	}
	t.warn("the %s of %s are of another autoencoder (%s, sha256 %.12s...) than those that --init-from %s was trained "+
		"on (%s, sha256 %.12s...): the model has to learn them anew", t.samples(), set.Name,
		cmp.Or(set.VAEName, "no name"), set.VAE, t.options.initFrom, cmp.Or(w.VAEName, "no name"),
		w.VAE)
}

// compareObjectives warns where the weights of --init-from were trained on another objective than that of the run.
func (t *trainJob) compareObjectives() {
	before, now := t.weights.Process, t.config.Process()
	before.Shift, now.Shift = 0, 0
	if before.String() != now.String() {
		t.warn("--init-from %s was trained on another objective, %s, this run is on %s: the model has to learn it anew",
			t.options.initFrom, before, now)
	}
}
