package catalog

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/labels"
)

// applyLabels sorts the entries by their names, labels them by a file and returns the names of the classes.
func applyLabels(file *labels.File, entries []entry) (classes, notes []string, err error) {
	if len(entries) == 0 {
		return nil, nil, errors.New("no pictures: " + wanted)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	pictures := make([]string, len(entries))
	for i, e := range entries {
		pictures[i] = e.name
	}
	classes, numbers, notes, err := file.Assign(pictures)
	for i, number := range numbers {
		entries[i].label = number
	}
	return classes, notes, err
}

// applyLabelsInArchive is applyLabels for members of archives, whose folders do not count as part of their names: the
// lines of file may name them with folders all the same.
func applyLabelsInArchive(file *labels.File, entries []entry) (classes, notes []string, err error) {
	cutFolders := func() {
		for i := range entries {
			entries[i].name = path.Base(entries[i].name)
		}
	}
	if file.HasNames() {
		classes, notes, err = applyLabels(file, entries)
		cutFolders()
		return classes, notes, err
	}
	cutFolders()
	if classes, notes, err = applyLabels(file, entries); err != nil {
		return nil, nil, err
	}
	for i := range len(entries) - 1 {
		if entries[i].name == entries[i+1].name {
			return nil, nil, fmt.Errorf("two pictures are called %s: want lines of file name and class", entries[i].name)
		}
	}
	return classes, notes, nil
}
