package captions

import (
	"fmt"
	"path"
	"strings"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/internal/names"
)

// nameIndex finds samples by the names that files of captions give them.
//
// Such a file may call a picture by its path from anywhere: images/train/cat/1.jpg, cat/1.jpg or 1.jpg. It is the
// sample whose class folder and name end in the same parts. A picture whose class is not a folder, as in WebDataset,
// is known by its name within the class, if no other class has it. All names are in their canonical form.
type nameIndex struct {
	samples labelled
	label   map[string]int32     // several of one name are severalClasses
	exact   map[sampleName]int32 // several of one name are severalSamples, and in here with their extensions
	base    map[string]int32     // the first sample by the base of its name
	next    []int32              // the next sample of the same base, -1 after the last
}

type sampleName struct {
	label int32
	name  string // within the class, without the extension of a picture
}

const (
	severalSamples = -1
	severalClasses = -1
)

func newNameIndex(samples labelled) *nameIndex {
	n := samples.Len()
	x := &nameIndex{samples: samples, label: map[string]int32{}, exact: make(map[sampleName]int32, n),
		base: make(map[string]int32, n), next: make([]int32, n)}
	for label, class := range samples.Classes() {
		name := names.Canonical(class)
		if _, ok := x.label[name]; ok {
			label = severalClasses
		}
		x.label[name] = int32(label)
	}
	for i := range n {
		s := x.sample(i)
		key := sampleName{int32(s.Label), trimPicture(s.Name)}
		if other, ok := x.exact[key]; ok {
			if other != severalSamples {
				x.exact[sampleName{key.label, x.sample(int(other)).Name}] = other
			}
			x.exact[key] = severalSamples
			key.name = s.Name
		}
		if _, twice := x.exact[key]; twice { // two names that are one in their canonical form
			x.exact[key] = severalSamples
		} else {
			x.exact[key] = int32(i)
		}
		base := path.Base(trimPicture(s.Name))
		x.next[i] = -1
		if first, ok := x.base[base]; ok {
			x.next[i], x.next[first] = x.next[first], int32(i)
		} else {
			x.base[base] = int32(i)
		}
	}
	return x
}

// sample is sample i with its canonical name.
func (x *nameIndex) sample(i int) catalog.Sample {
	s := x.samples.Sample(i)
	s.Name = names.Canonical(s.Name)
	return s
}

// class is the canonical name of the class of a sample.
func (x *nameIndex) class(s catalog.Sample) string {
	return names.Canonical(x.samples.Classes()[s.Label])
}

// trimPicture drops the extension of a picture, which programs that repack data sets change.
func trimPicture(name string) string {
	if filename.IsPicture(name) {
		return strings.TrimSuffix(name, path.Ext(name))
	}
	return name
}

// find returns the sample that a file of captions calls file, -1 if there is none.
func (x *nameIndex) find(file string) (int, error) {
	full := strings.TrimPrefix(path.Clean("/"+names.Canonical(file)), "/")
	name := trimPicture(full)
	for end := name; ; {
		class, after, ok := strings.Cut(end, "/")
		if !ok {
			break
		}
		if label, ok := x.label[names.Given(class)]; ok && label != severalClasses {
			i, ok := x.exact[sampleName{label, full[len(name)-len(after):]}] // with its extension
			if !ok {
				i, ok = x.exact[sampleName{label, after}]
			}
			if ok && i == severalSamples {
				if i := x.verbatim(label, file, after); i >= 0 {
					return i, nil
				}
				return -1, fmt.Errorf("%s: several pictures of class %s have this name: want it with the extension",
					file, class)
			}
			if ok {
				return int(i), nil
			}
		}
		end = after
	}
	first, ok := x.base[path.Base(name)]
	if !ok {
		return -1, nil
	}
	byPath, byName, named := -1, -1, 0
	for i := first; i >= 0; i = x.next[i] {
		s := x.sample(int(i))
		within := trimPicture(s.Name)
		if endsIn(x.class(s)+"/"+within, name) {
			if byPath >= 0 {
				other := x.sample(byPath)
				return -1, fmt.Errorf("%s: is it %s of class %s or %s of class %s? want the name of the class "+
					"before it", file,
					other.Name, x.class(other), s.Name, x.class(s))
			}
			byPath = int(i)
		}
		if endsIn(name, within) {
			folder := path.Base(strings.TrimSuffix(strings.TrimSuffix(name, within), "/"))
			if _, isClass := x.label[folder]; !isClass {
				byName = int(i)
				named++
			}
		}
	}
	if byPath < 0 && named == 1 {
		return byName, nil
	}
	return byPath, nil
}

// verbatim returns the sample of a class that file ends in byte by byte, -1 if there is none: one name in two forms of
// Unicode can be the name of two files.
func (x *nameIndex) verbatim(label int32, file, name string) int {
	first, ok := x.base[path.Base(name)]
	for i := first; ok && i >= 0; i = x.next[i] {
		s := x.samples.Sample(int(i))
		if int32(s.Label) == label && endsIn(file, s.Name) {
			return int(i)
		}
	}
	return -1
}

// endsIn says whether the last parts of a path are those of end.
func endsIn(name, end string) bool {
	return strings.HasSuffix(name, end) && (len(name) == len(end) || name[len(name)-len(end)-1] == '/')
}

// addNamed gives the picture called file a caption.
func (b *captionBuilder) addNamed(file, text string) error {
	n, err := b.intern(text)
	if err != nil {
		return err
	}
	return b.pairNamed(file, n)
}

func (b *captionBuilder) pairNamed(file string, text int32) error {
	if b.names == nil {
		b.names = newNameIndex(b.samples)
	}
	i, err := b.names.find(file)
	if err != nil {
		return err
	}
	if i < 0 {
		if b.stats.Unmatched == 0 {
			b.stats.FirstUnmatched = file
		}
		b.stats.Unmatched++
		return nil
	}
	return b.pair(i, text)
}
