package catalog

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// labelFile says which class each picture of a flat set belongs to.
type labelFile struct {
	path   string
	lines  []string       // classes: by line, or of the pictures in byte order of their names
	names  []string       // the file names in the lines; nil where they have none
	byPath map[string]int // line by file name as it is written
	byStem map[string]int // line by file name without folder and extension; -1 where several say different classes
	notes  []string
}

// maxLabelFile bounds the memory that a file of labels may cost.
const maxLabelFile = 1 << 28

// readLabels reads a file of labels: a class name a line for the pictures in order of their names, or lines of a file
// name and a class name: CSV, with tabs, or apart by blanks. What follows boxes of numbers, as in Kaggle's
// LOC_val_solution.csv, and further columns are ignored.
func readLabels(file string) (*labelFile, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, disk.OpenError(file, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxLabelFile {
		return nil, fmt.Errorf("open %s: want a text file of at most %d bytes", file, maxLabelFile)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, disk.OpenError(file, err)
	}
	l, err := parseLabels(b)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	l.path = file
	for i, note := range l.notes {
		l.notes[i] = file + ": " + note
	}
	return l, nil
}

func parseLabels(text []byte) (*labelFile, error) {
	l := &labelFile{byPath: map[string]int{}, byStem: map[string]int{}}
	var head *labelHeader
	ignored, example := 0, ""
	for line, err := range disk.Lines(bytes.NewReader(text), len(text)) {
		if err != nil {
			return nil, err
		}
		n := line.Number
		f, err := labelFields(line.Text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if n == 1 {
			if head = readLabelHeader(f); head != nil {
				continue
			}
		}
		switch {
		case len(f) == 0:
		case len(f) == 1 && l.names == nil && head == nil:
			if _, err := strconv.Atoi(f[0]); err == nil {
				return nil, fmt.Errorf("line %d: the number %s: want class names: "+
					"the numbers of ImageNet's development kit are not the labels that models use", n, f[0])
			}
			l.lines = append(l.lines, f[0])
		case len(f) > 1 && len(l.names) == len(l.lines):
			name, class, more, err := head.pick(f)
			if err == nil {
				err = l.add(name, class)
			}
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			if more != "" {
				if ignored++; ignored == 1 {
					example = fmt.Sprintf("%.60q in line %d", more, n)
				}
			}
		default:
			return nil, fmt.Errorf("line %d: %q: want in all lines either a class, or a file name and a class",
				n, strings.TrimSpace(line.Text))
		}
	}
	if l.lines == nil {
		return nil, errors.New("no labels in it")
	}
	if ignored > 0 {
		l.notes = append(l.notes, fmt.Sprintf("what follows the class is ignored in %s, as %s",
			names.Plural(ignored, "line"), example))
	}
	return l, nil
}

// add takes a line of a file name and a class.
func (l *labelFile) add(name, class string) error {
	written := names.Canonical(path.Clean(name))
	if i, ok := l.byPath[written]; ok {
		if l.lines[i] != class {
			return fmt.Errorf("%s is of class %s, and was of class %s", name, class, l.lines[i])
		}
		return nil
	}
	i := len(l.lines)
	l.lines, l.names = append(l.lines, class), append(l.names, name)
	l.byPath[written] = i
	switch old, ok := l.byStem[filename.Stem(written)]; {
	case !ok:
		l.byStem[filename.Stem(written)] = i
	case old >= 0 && l.lines[old] != class:
		l.byStem[filename.Stem(written)] = -1
	}
	return nil
}

// labelFields splits a line: CSV where there are commas or quotes, else at tabs, else at the first blanks.
func labelFields(line string) (f []string, err error) {
	line = strings.TrimSpace(line)
	switch {
	case line == "":
		return nil, nil
	case strings.ContainsAny(line, ",\""):
		r := csv.NewReader(strings.NewReader(line))
		r.TrimLeadingSpace = true
		if f, err = r.Read(); err != nil {
			return nil, err
		}
	case strings.Contains(line, "\t"):
		f = strings.Split(line, "\t")
	default:
		i := strings.IndexFunc(line, unicode.IsSpace)
		if i < 0 {
			return []string{line}, nil
		}
		f = []string{line[:i], line[i:]}
	}
	for i := range f {
		f[i] = strings.TrimSpace(f[i])
	}
	return f, nil
}

// labelHeader says which columns hold the file name and the class.
type labelHeader struct{ file, class int }

// readLabelHeader returns the columns that the first line names, nil if it names none. Class names go before labels,
// which may be numbers.
func readLabelHeader(f []string) *labelHeader {
	column := func(names ...string) int {
		for _, name := range names {
			for i := range f {
				if strings.EqualFold(f[i], name) {
					return i
				}
			}
		}
		return -1
	}
	if len(f) < 2 {
		return nil
	}
	h := labelHeader{
		file: column("file", "filename", "file_name", "path", "image_path", "image", "img", "ImageId", "image_id",
			"id", "name"),
		class: column("class_name", "classname", "class", "classes", "category", "breed", "species", "synset",
			"label", "labels", "target", "PredictionString"),
	}
	if h.file < 0 || h.class < 0 {
		return nil
	}
	return &h
}

// pick takes the file name and the class from a line, and what behind the class is ignored, where no header names it.
func (h *labelHeader) pick(f []string) (name, class, more string, err error) {
	switch {
	case h == nil:
		name, class, more = f[0], f[1], strings.Trim(strings.Join(f[2:], ","), ",")
	case max(h.file, h.class) < len(f):
		name, class = f[h.file], f[h.class]
	}
	if name == "" || class == "" {
		return "", "", "", fmt.Errorf("%q: want a file name and a class", strings.Join(f, ","))
	}
	words := strings.Fields(class)
	isNumber := func(w string) bool { _, err := strconv.Atoi(w); return err == nil }
	boxes := len(words) > 2 && !slices.ContainsFunc(words[1:], func(w string) bool { return !isNumber(w) })
	switch {
	case classes.IsSynset(words[0]): // as in Kaggle's LOC_val_solution.csv
		class = words[0]
	case boxes:
		class, more = words[0], strings.Join(words[1:], " ")
	}
	return name, class, more, nil
}

// find returns the line for a picture: of its path, of the end of its path, or of its name without extension.
func (l *labelFile) find(name string) (int, error) {
	composed := names.Canonical(name)
	for end := composed; ; {
		for _, key := range []string{end, strings.TrimSuffix(end, path.Ext(end))} {
			if i, ok := l.byPath[key]; ok {
				return i, nil
			}
		}
		_, after, ok := strings.Cut(end, "/")
		if !ok {
			break
		}
		end = after
	}
	i, ok := l.byStem[filename.Stem(composed)]
	switch {
	case !ok:
		return 0, fmt.Errorf("%s has no line for %s", l.path, name)
	case i < 0:
		return 0, fmt.Errorf("%s has lines of several classes for pictures called %s, but none for %s",
			l.path, filename.Stem(name), name)
	}
	return i, nil
}

// apply labels the entries and returns the classes: sorted, or those of ImageNet-1k where all are of it.
func (l *labelFile) apply(entries []entry) ([]string, error) {
	if len(entries) == 0 {
		return nil, errors.New("no pictures: " + wanted)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	if l.names == nil && len(l.lines) != len(entries) {
		return nil, fmt.Errorf("%s has %d lines for %d pictures", l.path, len(l.lines), len(entries))
	}
	of := make([]string, len(entries))
	taken := make([]string, len(l.lines)) // the picture of each line
	for k, e := range entries {
		i := k
		if l.names != nil {
			var err error
			if i, err = l.find(e.name); err != nil {
				return nil, err
			}
			if taken[i] != "" {
				return nil, fmt.Errorf(
					"%s has one line, %s, for %s and %s: want lines with their folders and extensions",
					l.path, l.names[i], taken[i], e.name)
			}
		}
		of[k], taken[i] = l.lines[i], e.name
	}
	if n := len(l.lines) - len(entries); n > 0 {
		unused := l.names[slices.Index(taken, "")]
		l.notes = append(l.notes, fmt.Sprintf("%s of %s for pictures that are not there, such as %s",
			names.Plural(n, "line"), l.path, unused))
	}
	list := slices.Compact(slices.Sorted(slices.Values(of)))
	if !slices.ContainsFunc(list, func(c string) bool { _, ok := classes.ImageNetLabel(c); return !ok }) {
		list = classes.ImageNetNames()
	}
	for i := range entries {
		label, _ := slices.BinarySearch(list, of[i])
		entries[i].label = int32(label)
	}
	return list, nil
}

// applyArchive is apply for members of archives, whose folders then do not count as part of their names.
func (l *labelFile) applyArchive(entries []entry) (classes []string, err error) {
	base := func() {
		for i := range entries {
			entries[i].name = path.Base(entries[i].name)
		}
	}
	if l.names != nil {
		classes, err = l.apply(entries)
		base()
		return classes, err
	}
	base()
	if classes, err = l.apply(entries); err != nil {
		return nil, err
	}
	for i := range len(entries) - 1 {
		if entries[i].name == entries[i+1].name {
			return nil, fmt.Errorf("two pictures are called %s: want lines of file name and class", entries[i].name)
		}
	}
	return classes, nil
}
