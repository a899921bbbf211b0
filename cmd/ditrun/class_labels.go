package main

import (
	"errors"
	"fmt"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/dit"
)

// parseClasses reads the values of --class-labels; without any it takes classes worth looking at. Found has a line for
// each class that was not given by its number or by its very name.
func parseClasses(values []string, info dit.Info) (labels []int, found []string, err error) {
	if len(values) == 0 {
		return classes.Showcase(info.Config.NumClasses), nil, nil
	}
	labels, found, err = classes.Find(info.Config.NumClasses, info.Classes, values)
	if e := (*classes.FindError)(nil); errors.As(err, &e) {
		err = usageError{fmt.Errorf("--class-labels: %w", err)}
		if e.Hint != "" {
			err = withHint(err, "%s", e.Hint)
		}
	}
	return labels, found, err
}
