package main

import (
	"fmt"

	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/dit"
)

// startModel returns the configuration of the model to train, and the weights of --init-from fitted to
// the latents, nil without that flag. What had to be changed is said.
func startModel(e *env, named dit.Config, set training.Set) (dit.Config, *dit.Weights, error) {
	c := e.flags
	from := c.String("init-from")
	if from == "" {
		return named, nil, nil
	}
	given := ""
	if c.IsSet("model") {
		given = c.String("model")
	}
	w, err := dit.Read(from, given)
	if err != nil {
		return named, nil, err
	}
	fail := func(err error) (dit.Config, *dit.Weights, error) {
		w.Close()
		return named, nil, err
	}
	if given == "" {
		if err := c.Set("model", w.Config.Name()); err != nil { // for config.yaml
			return fail(err)
		}
	} else if w.Config.Name() != named.Name() {
		return fail(usagef("--init-from %s holds %s, --model asks for %s", from, w.Config.Name(), named.Name()))
	}
	for _, d := range []struct {
		flag        string
		holds, asks fmt.Stringer
	}{{"block", w.Config.Block, named.Block}, {"condition", w.Config.Condition, named.Condition}} {
		if d.holds != d.asks && (c.IsSet(d.flag) || d.flag == "condition" && c.Bool("unconditional")) {
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
	e.printf("start   %s", w)
	change := dit.Changes{InputSize: set.Height, InputWidth: set.Width, Seed: c.Uint64("global-seed")}
	if drop := c.Float64("class-dropout-prob"); w.Config.Condition != dit.OnNothing {
		change.ClassDropoutProb = &drop
	}
	if w.Config.HasClass() {
		change.NumClasses = c.Int("num-classes")
		if n := len(set.Classes); change.NumClasses == 0 || change.NumClasses == n {
			change.Classes = set.Classes
		}
	}
	did, err := w.Adapt(change)
	if err != nil {
		return fail(fmt.Errorf("--init-from %s: %w", from, err))
	}
	for _, line := range append(w.Notes, did...) {
		e.printf("        %s", line)
	}
	return w.Config, w, nil
}
