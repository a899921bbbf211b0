package labels

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

// A File names the class of each picture of a set that has no class folders.
type File struct {
	Path string

	classes []string       // by line
	names   []string       // the file names in the lines; nil where they have none
	byPath  map[string]int // line by file name as it is written
	byStem  map[string]int // line by file name without folder and extension; -1 where several say different classes
	notes   []string
}

// MaxFile bounds the memory that a file of labels may cost, in bytes.
const MaxFile = 1 << 28

// Read reads a file of labels: a class name a line for the pictures in order of their names, or lines of a file name
// and a class name: CSV, with tabs, or apart by blanks. Further columns, and boxes of numbers behind the class as in
// Kaggle's LOC_val_solution.csv, are ignored.
func Read(path string) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, disk.OpenError(path, err)
	}
	if !info.Mode().IsRegular() || info.Size() > MaxFile {
		return nil, fmt.Errorf("open %s: want a text file of at most %d bytes", path, MaxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, disk.OpenError(path, err)
	}
	f, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	f.Path = path
	for i, note := range f.notes {
		f.notes[i] = path + ": " + note
	}
	return f, nil
}

func parse(text []byte) (*File, error) {
	l := &File{byPath: map[string]int{}, byStem: map[string]int{}}
	var head *header
	ignored, example := 0, ""
	for line, err := range disk.Lines(bytes.NewReader(text), len(text)) {
		if err != nil {
			return nil, err
		}
		n := line.Number
		f, err := fieldsOf(line.Text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if n == 1 {
			if head = readHeader(f); head != nil {
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
			l.classes = append(l.classes, f[0])
		case len(f) > 1 && len(l.names) == len(l.classes):
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
			return nil, fmt.Errorf("line %d: %q: want either a class in every line, or a file name and a class",
				n, strings.TrimSpace(line.Text))
		}
	}
	if l.classes == nil {
		return nil, errors.New("no labels in it")
	}
	if ignored > 0 {
		l.notes = append(l.notes, fmt.Sprintf("what follows the class is ignored in %s, as %s",
			names.Plural(ignored, "line"), example))
	}
	return l, nil
}

// add takes a line of a file name and a class.
func (l *File) add(name, class string) error {
	written := names.Canonical(path.Clean(name))
	if i, ok := l.byPath[written]; ok {
		if l.classes[i] != class {
			return fmt.Errorf("%s is of class %s, and was of class %s", name, class, l.classes[i])
		}
		return nil
	}
	i := len(l.classes)
	l.classes, l.names = append(l.classes, class), append(l.names, name)
	l.byPath[written] = i
	switch old, ok := l.byStem[filename.Stem(written)]; {
	case !ok:
		l.byStem[filename.Stem(written)] = i
	case old >= 0 && l.classes[old] != class:
		l.byStem[filename.Stem(written)] = -1
	}
	return nil
}

// fieldsOf splits a line: CSV where there are commas or quotes, else at tabs, else at the first blanks.
func fieldsOf(line string) (f []string, err error) {
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

// header says which columns hold the file name and the class.
type header struct{ file, class int }

// readHeader returns the columns that the first line names, nil if it names none. Class names go before labels,
// which may be numbers.
func readHeader(f []string) *header {
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
	h := header{
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
func (h *header) pick(f []string) (name, class, more string, err error) {
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
func (l *File) find(name string) (int, error) {
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
		return 0, fmt.Errorf("%s has no line for %s", l.Path, name)
	case i < 0:
		return 0, fmt.Errorf("%s has lines of several classes for pictures called %s, but none for %s",
			l.Path, filename.Stem(name), name)
	}
	return i, nil
}

// HasNames says whether the lines name their pictures. Else they are in the order of the names of the pictures.
func (l *File) HasNames() bool { return l.names != nil }

// Text tells files of labels apart: it is the same where they say the same.
func (l *File) Text() string { return fmt.Sprintf("%q %q\n", l.classes, l.names) }

// Assign labels pictures, which are paths in byte order. It returns the names of all classes in order, those of
// ImageNet-1k where all are of it, the label of each picture, and remarks for the user.
func (l *File) Assign(pictures []string) (list []string, numbers []int32, notes []string, err error) {
	if l.names == nil && len(l.classes) != len(pictures) {
		return nil, nil, nil, fmt.Errorf("%s has %d lines for %d pictures", l.Path, len(l.classes), len(pictures))
	}
	of := make([]string, len(pictures))       // the class of each picture
	takenBy := make([]string, len(l.classes)) // the picture of each line
	for k, name := range pictures {
		i := k
		if l.names != nil {
			if i, err = l.find(name); err != nil {
				return nil, nil, nil, err
			}
			if takenBy[i] != "" {
				return nil, nil, nil, fmt.Errorf(
					"%s has one line, %s, for %s and %s: want lines with their folders and extensions",
					l.Path, l.names[i], takenBy[i], name)
			}
		}
		of[k], takenBy[i] = l.classes[i], name
	}
	notes = slices.Clone(l.notes)
	if n := len(l.classes) - len(pictures); n > 0 {
		unused := l.names[slices.Index(takenBy, "")]
		notes = append(notes, fmt.Sprintf("%s of %s without a picture, such as %s",
			names.Plural(n, "line"), l.Path, unused))
	}
	list = slices.Compact(slices.Sorted(slices.Values(of)))
	if !slices.ContainsFunc(list, func(c string) bool { _, ok := classes.ImageNetLabel(c); return !ok }) {
		list = classes.ImageNetNames()
	}
	numbers = make([]int32, len(of))
	for i, class := range of {
		number, _ := slices.BinarySearch(list, class)
		numbers[i] = int32(number)
	}
	return list, numbers, notes, nil
}
