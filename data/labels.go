package data

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// labelFile says which class each picture of a flat set belongs to.
type labelFile struct {
	path   string
	byName map[string]string // class by file name without extension; nil where the lines are in order
	lines  []string          // classes of the pictures in byte order of their names
}

// maxLabelFile bounds the memory that a file of labels may cost.
const maxLabelFile = 1 << 28

// readLabels reads a file of labels: a class name a line for the pictures in order of their names, or lines of a file
// name and a class name, apart by a comma or blanks, as Kaggle's LOC_val_solution.csv; what follows is ignored.
func readLabels(file string) (*labelFile, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, openError(file, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxLabelFile {
		return nil, fmt.Errorf("open %s: want a text file of at most %d bytes", file, maxLabelFile)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, openError(file, err)
	}
	l, err := parseLabels(b)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	l.path = file
	return l, nil
}

func parseLabels(text []byte) (*labelFile, error) {
	l := &labelFile{}
	for line, err := range disk.Lines(bytes.NewReader(text), len(text)) {
		if err != nil {
			return nil, err
		}
		n := line.Number
		f := strings.FieldsFunc(line.Text, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\r' || r == '\n' })
		switch {
		case len(f) == 0, n == 1 && strings.EqualFold(f[0], "ImageId"):
		case len(f) == 1 && l.byName == nil:
			if _, err := strconv.Atoi(f[0]); err == nil {
				return nil, fmt.Errorf("line %d: the number %s: want class names: the numbers of ImageNet's development kit are not the labels that models use", n, f[0])
			}
			l.lines = append(l.lines, f[0])
		case len(f) > 1 && l.lines == nil:
			if l.byName == nil {
				l.byName = map[string]string{}
			}
			name := names.Canonical(stem(f[0]))
			if old, ok := l.byName[name]; ok && old != f[1] {
				return nil, fmt.Errorf("line %d: %s is of class %s, and was of class %s", n, f[0], f[1], old)
			}
			l.byName[name] = f[1]
		default:
			return nil, fmt.Errorf("line %d: %q: want in all lines either a class, or a file name and a class", n, strings.TrimSpace(line.Text))
		}
	}
	if l.lines == nil && l.byName == nil {
		return nil, errors.New("no labels in it")
	}
	return l, nil
}

// stem is a file name without folder and extension.
func stem(name string) string {
	base := path.Base(name)
	return strings.TrimSuffix(base, path.Ext(base))
}

// apply labels the entries and returns the classes: sorted, or those of ImageNet-1k where all are of it.
func (l *labelFile) apply(entries []entry) ([]string, error) {
	if len(entries) == 0 {
		return nil, errors.New("no pictures: " + wanted)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	if l.byName == nil && len(l.lines) != len(entries) {
		return nil, fmt.Errorf("%s has %d lines for %d pictures", l.path, len(l.lines), len(entries))
	}
	of := make([]string, len(entries))
	for i, e := range entries {
		if l.byName == nil {
			of[i] = l.lines[i]
			continue
		}
		class, ok := l.byName[names.Canonical(stem(e.name))]
		if !ok {
			return nil, fmt.Errorf("%s has no line for %s", l.path, e.name)
		}
		of[i] = class
	}
	classes := slices.Compact(slices.Sorted(slices.Values(of)))
	if !slices.ContainsFunc(classes, func(c string) bool { _, ok := imagenetLabel(c); return !ok }) {
		classes = classes[:0]
		for _, c := range ImageNetClasses() {
			classes = append(classes, c.Synset)
		}
	}
	for i := range entries {
		label, _ := slices.BinarySearch(classes, of[i])
		entries[i].label = int32(label)
	}
	return classes, nil
}
