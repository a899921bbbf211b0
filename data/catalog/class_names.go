package catalog

import (
	"fmt"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
)

// alikeNames refuses classes whose names read the same, and remarks on those that differ by case alone.
func alikeNames(classes []string) (notes []string, err error) {
	composed, folded := map[string]string{}, map[string]string{}
	var pairs []string
	for _, c := range classes {
		key := names.Canonical(c)
		if old, ok := composed[key]; ok && old != c {
			return nil, fmt.Errorf("classes %+q and %+q have one name, its letters composed in two ways: "+
				"merge them, or rename one", old, c)
		}
		composed[key] = c
		key = strings.ToLower(key)
		if old, ok := folded[key]; ok && old != c {
			pairs = append(pairs, fmt.Sprintf("%q and %q", old, c))
			continue
		}
		folded[key] = c
	}
	if len(pairs) > 0 {
		notes = append(notes, fmt.Sprintf("classes %s differ by case alone", names.Few(pairs)))
	}
	return notes, nil
}
