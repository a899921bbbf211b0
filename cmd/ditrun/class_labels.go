package main

import (
	"errors"
	"fmt"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
)

// parseClasses reads the values of --class-labels. Found has a line for each class that was not given by its number or
// by its very name. Without values it takes all classes, or, where numSamples is 0 too, a few worth looking at.
func parseClasses(values []string, info dit.Info, numSamples int, seed uint64) (labels []int, found []string,
	err error) {
	n := info.Config.NumClasses
	switch {
	case len(values) == 0 && numSamples == 0:
		return classes.Showcase(n), nil, nil
	case len(values) == 0:
		return classes.All(n), nil, nil
	}
	random, err := classes.AskForRandom(info.Classes, values)
	switch {
	case random && numSamples == 0:
		return nil, nil, usagef("--class-labels random: --num-samples says how many pictures to draw")
	case random:
		return sampling.RandomLabels(n, numSamples, seed), nil, nil
	}
	balanced := false
	if err == nil {
		balanced, err = classes.AskForBalanced(info.Classes, values)
	}
	switch {
	case balanced && numSamples == 0:
		return nil, nil, usagef("--class-labels balanced: --num-samples says how many pictures to draw")
	case balanced:
		return sampling.BalancedLabels(n, numSamples), nil, nil
	case err == nil:
		labels, found, err = classes.Find(n, info.Classes, values)
	}
	if e := (*classes.FindError)(nil); errors.As(err, &e) {
		err = usageError{fmt.Errorf("--class-labels: %w", err)}
		if e.Hint != "" {
			err = withHint(err, "%s", e.Hint)
		}
	}
	return labels, found, err
}
