package data

import (
	"fmt"
	"path"
	"strings"
)

// nameIndex finds samples by the names that files of captions give them.
//
// Such a file may call a picture by its path from anywhere: images/train/cat/1.jpg, cat/1.jpg or 1.jpg. It is the
// sample whose class folder and name end in the same parts. A picture whose class is not a folder, as in WebDataset,
// is known by its name within the class, if no other class has it.
type nameIndex struct {
	samples labelled
	label   map[string]int32
	exact   map[sampleName]int32 // several of one name are severalSamples, and in here with their extensions
	base    map[string]int32     // the first sample by the base of its name
	next    []int32              // the next sample of the same base, -1 after the last
}

type sampleName struct {
	label int32
	name  string // within the class, without the extension of a picture
}

const severalSamples = -1

func newNameIndex(samples labelled) *nameIndex {
	n := samples.Len()
	x := &nameIndex{samples: samples, label: map[string]int32{}, exact: make(map[sampleName]int32, n), base: make(map[string]int32, n), next: make([]int32, n)}
	for label, class := range samples.Classes() {
		x.label[class] = int32(label)
	}
	for i := range n {
		s := samples.Sample(i)
		key := sampleName{int32(s.Label), trimPicture(s.Name)}
		if other, ok := x.exact[key]; ok {
			if other != severalSamples {
				x.exact[sampleName{key.label, samples.Sample(int(other)).Name}] = other
			}
			x.exact[key] = severalSamples
			key.name = s.Name
		}
		x.exact[key] = int32(i)
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

// trimPicture drops the extension of a picture, which programs that repack data sets change.
func trimPicture(name string) string {
	if isPicture(name) {
		return strings.TrimSuffix(name, path.Ext(name))
	}
	return name
}

// find returns the sample that a file of captions calls file, -1 if there is none.
func (x *nameIndex) find(file string) (int, error) {
	full := strings.TrimPrefix(path.Clean("/"+file), "/")
	name := trimPicture(full)
	for rest := name; ; {
		class, after, ok := strings.Cut(rest, "/")
		if !ok {
			break
		}
		if label, ok := x.label[class]; ok {
			i, ok := x.exact[sampleName{label, full[len(name)-len(after):]}] // with its extension
			if !ok {
				i, ok = x.exact[sampleName{label, after}]
			}
			if ok && i == severalSamples {
				return -1, fmt.Errorf("%s: several pictures of class %s have this name: want it with the extension", file, class)
			}
			if ok {
				return int(i), nil
			}
		}
		rest = after
	}
	first, ok := x.base[path.Base(name)]
	if !ok {
		return -1, nil
	}
	byPath, byName, names := -1, -1, 0
	for i := first; i >= 0; i = x.next[i] {
		s := x.samples.Sample(int(i))
		within := trimPicture(s.Name)
		if endsIn(x.samples.Classes()[s.Label]+"/"+within, name) {
			if byPath >= 0 {
				other := x.samples.Sample(byPath)
				return -1, fmt.Errorf("%s: is it %s of class %s or %s of class %s? want the name of the class before it", file,
					other.Name, x.samples.Classes()[other.Label], s.Name, x.samples.Classes()[s.Label])
			}
			byPath = int(i)
		}
		if endsIn(name, within) {
			folder := path.Base(strings.TrimSuffix(strings.TrimSuffix(name, within), "/"))
			if _, isClass := x.label[folder]; !isClass {
				byName = int(i)
				names++
			}
		}
	}
	if byPath < 0 && names == 1 {
		return byName, nil
	}
	return byPath, nil
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
