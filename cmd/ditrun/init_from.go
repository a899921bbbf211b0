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
	if set.Channels != w.Config.InChannels {
		return fail(fmt.Errorf("--init-from %s is for latents of %d channels, %s has %d", from, w.Config.InChannels, set.Name, set.Channels))
	}
	e.printf("start   %s", w)
	drop := c.Float64("class-dropout-prob")
	change := dit.Changes{NumClasses: c.Int("num-classes"), InputSize: set.Height, InputWidth: set.Width, ClassDropoutProb: &drop, Seed: c.Uint64("global-seed")}
	if n := len(set.Classes); change.NumClasses == 0 || change.NumClasses == n {
		change.Classes = set.Classes
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
