package classes

import (
	"fmt"
	"slices"

	"github.com/ditrun/ditrun/internal/names"
)

// Below fewPictures a model has little else to learn of a class than the pictures themselves. Above maxRatio a class is
// rare beside another. Both are rules of thumb for a remark, not limits.
const (
	fewPictures = 20
	maxRatio    = 10
)

// Balance says what is remarkable about the numbers of pictures of the classes, by label: that there are none, few, or
// many more than of others.
func Balance(classes []string, counts []int) (notes []string) {
	if None(classes) || len(counts) == 0 {
		return nil
	}
	var without, few []string
	least, most := -1, 0
	for label, n := range counts {
		switch {
		case n == 0:
			without = append(without, Shown(classes[label]))
			continue
		case n < fewPictures:
			few = append(few, fmt.Sprintf("%s (%d)", Shown(classes[label]), n))
		}
		if least < 0 || n < counts[least] {
			least = label
		}
		if n > counts[most] {
			most = label
		}
	}
	if len(without) > 0 {
		notes = append(notes, "without pictures: "+names.Few(without))
	}
	switch {
	case len(few) > 0 && slices.Max(counts) < fewPictures:
		notes = append(notes, fmt.Sprintf("every class has fewer than %d pictures: a model will mostly repeat them",
			fewPictures))
	case len(few) > 0:
		notes = append(notes, fmt.Sprintf("fewer than %d pictures: %s: the model will mostly repeat them", fewPictures,
			names.Few(few)))
	}
	if least >= 0 && counts[most] >= maxRatio*counts[least] {
		notes = append(notes, fmt.Sprintf("%s has %d times the pictures of %s: training draws pictures, not classes, "+
			"so it sees %s that much less", Shown(classes[most]), counts[most]/counts[least],
			Shown(classes[least]), Shown(classes[least])))
	}
	return notes
}
