package classes

import (
	"fmt"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
)

// AsText makes the names of classes, as they were found, what manifests and checkpoints can hold. The order stays
// that of the bytes.
func AsText(classes []string) []string {
	list := make([]string, len(classes))
	for i, name := range classes {
		list[i] = names.Text(name)
	}
	return list
}

// Difference words the first difference between the classes of a source and those found in a set, "" if there is none.
// Sets were once made with names that [names.Text] writes in another way.
func Difference(classes, found []string) string {
	if len(classes) != len(found) {
		return fmt.Sprintf("%d instead of %d", len(found), len(classes))
	}
	for label, name := range classes {
		if old := found[label]; !names.Equal(name, old) && !names.Equal(name, names.Text(old)) {
			return fmt.Sprintf("class %d was called %q, and is now %q", label, old, name)
		}
	}
	return ""
}

// Unnamed are the classes of a data set that has none: all its pictures are of one class without a name, so that every
// label still has its entry.
func Unnamed() []string { return []string{""} }

// None says whether these are the classes of a data set that has none, see [Unnamed].
func None(classes []string) bool { return len(classes) == 1 && classes[0] == "" }

// Numbered names n classes by their numbers.
func Numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	return names
}

// Alike refuses classes whose names read the same, and remarks on those that differ only in case.
func Alike(classes []string) (notes []string, err error) {
	composed, folded := map[string]string{}, map[string]string{}
	var pairs []string
	for _, c := range classes {
		key := names.Canonical(c)
		if old, ok := composed[key]; ok && old != c {
			return nil, fmt.Errorf("classes %+q and %+q have the same name, with accented letters composed in "+
				"two ways: "+
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
		notes = append(notes, fmt.Sprintf("classes %s differ only in case", names.Few(pairs)))
	}
	return notes, nil
}

// Notes says what is remarkable about the numbering of classes that are named by WordNet ids: models trained on
// ImageNet expect its own.
func Notes(classes []string) []string {
	known, elsewhere := 0, ""
	for label, name := range classes {
		if !IsSynset(name) {
			return nil
		}
		if l, ok := ImageNetLabel(name); ok {
			known++
			if l != label && elsewhere == "" {
				elsewhere = fmt.Sprintf("%s (%s) is class %d here and %d there", name, Words(name), label, l)
			}
		}
	}
	switch {
	case known == 0, known == len(classes) && elsewhere == "":
		return nil
	case elsewhere == "":
		return []string{fmt.Sprintf("%s, %d of them in ImageNet-1k", names.Plural(len(classes), "class"), known)}
	}
	return []string{fmt.Sprintf("the classes are numbered differently than in ImageNet-1k: %s; models trained on "+
		"ImageNet use other labels", elsewhere)}
}
