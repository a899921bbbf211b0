package archive

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/internal/names"
)

// SampleKey is the name up to the first dot of its base, which the members of a WebDataset sample share.
func SampleKey(name string) string {
	base := strings.LastIndexByte(name, '/') + 1
	if dot := strings.IndexByte(name[base:], '.'); dot >= 0 {
		return name[:base+dot]
	}
	return name
}

// isWhole says whether the extension of a name is all that follows its key.
func isWhole(name string) bool { return SampleKey(name)+path.Ext(name) == name }

// sample is what an archive holds under one key.
type sample struct {
	pictures int32
	picture  int32       // the one that is taken
	clash    bool        // others could be as well meant
	cls      labelMember // .cls
	json     labelMember // .json that has a label
	noLabel  int32       // .json that has none for certain, -1 if there is no such
}

// labelMember is the number of the member with a label, -1 if there is none.
type labelMember struct {
	at    int32
	clash bool // others could be as well meant
}

// takePicture adds picture i: where a sample has several, such as image.jpg and image.mask.png, the one is taken whose
// extension is the whole rest of its name.
func (s *sample) takePicture(l *Listing, i int32) {
	if s.pictures++; s.pictures == 1 {
		s.picture = i
		return
	}
	switch now, new := isWhole(l.Pictures[s.picture].Name), isWhole(l.Pictures[i].Name); {
	case new && !now:
		s.picture, s.clash = i, false
	case new == now:
		s.clash = true
	}
}

// take adds member j.
func (m *labelMember) take(l *Listing, j int32) {
	if m.at < 0 {
		m.at = j
		return
	}
	switch now, new := isWhole(l.others[m.at].name), isWhole(l.others[j].name); {
	case new && !now:
		*m = labelMember{at: j}
	case new == now:
		m.clash = true
	}
}

// MatchMembers counts the members that belong to no picture as left out and, where label, labels the pictures by the
// members that share their keys, wherever these are in the archive.
func (l *Listing) MatchMembers(label bool) error {
	if len(l.others) == 0 {
		return nil
	}
	number := make(map[string]int32, len(l.Pictures))
	samples := make([]sample, 0, len(l.Pictures))
	for i, m := range l.Pictures {
		key := SampleKey(m.Name)
		k, ok := number[key]
		if !ok {
			k = int32(len(samples))
			number[key] = k
			samples = append(samples, sample{cls: labelMember{at: -1}, json: labelMember{at: -1}, noLabel: -1})
		}
		samples[k].takePicture(l, int32(i))
	}
	labelled := false
	for j, o := range l.others {
		k, ok := number[SampleKey(o.name)]
		switch cls := strings.EqualFold(path.Ext(o.name), ".cls"); {
		case !ok:
			l.LeftOut.Count(filename.WhyLeftOut(o.name))
			if dir := path.Dir(o.name); dir != "." {
				l.Folders[dir] = true
			}
		case cls:
			samples[k].cls.take(l, int32(j))
			labelled = true
		case errors.As(o.err, new(*labels.NoLabelError)):
			samples[k].noLabel = int32(j)
		case o.found || o.err != nil:
			samples[k].json.take(l, int32(j))
			labelled = true
		}
	}
	if !labelled || !label {
		return nil
	}
	kept := l.Pictures[:0]
	for i, m := range l.Pictures {
		s := samples[number[SampleKey(m.Name)]]
		lab, err := l.labelOf(&s)
		switch {
		case err != nil:
			return err
		case lab == nil:
			kept = append(kept, m)
		case s.picture == int32(i):
			if s.pictures > 1 {
				l.LeftOut[filename.FurtherPicture] += int(s.pictures) - 1 // such as image.mask.png
			}
			m.Label, m.Labelled = lab.label, true
			kept = append(kept, m)
		}
	}
	l.Pictures = kept
	return nil
}

// labelOf returns the member with the label of a sample, nil if it has none.
func (l *Listing) labelOf(s *sample) (*other, error) {
	at := s.cls
	if at.at < 0 {
		at = s.json
	}
	if at.at < 0 {
		if s.noLabel >= 0 {
			o := &l.others[s.noLabel]
			return nil, fmt.Errorf("%s: %w", o.name, o.err)
		}
		return nil, nil
	}
	o := &l.others[at.at]
	if s.clash || at.clash || s.pictures > 1 && !(isWhole(l.Pictures[s.picture].Name) && isWhole(o.name)) {
		return nil, l.clashError(SampleKey(o.name))
	}
	if o.err != nil {
		return nil, fmt.Errorf("%s: %w", o.name, o.err)
	}
	if at == s.cls && s.json.at >= 0 {
		j := &l.others[s.json.at]
		if a, b := o.label, j.label; j.found && (a.Class == "") == (b.Class == "") && a != b && !o.differs {
			o.differs = true
			l.Conflicts++
		}
	}
	return o, nil
}

// clashError says what an archive holds under a key.
func (l *Listing) clashError(key string) error {
	var pictures, labels []string
	for _, m := range l.Pictures {
		if SampleKey(m.Name) == key {
			pictures = append(pictures, path.Base(m.Name))
		}
	}
	for _, o := range l.others {
		if SampleKey(o.name) == key && (o.found || o.err != nil) {
			labels = append(labels, path.Base(o.name))
		}
	}
	for _, list := range [][]string{pictures, labels} {
		slices.Sort(list)
		for i := range len(list) - 1 {
			if list[i] == list[i+1] {
				return fmt.Errorf("%s is there twice: pack the archive again from its files",
					path.Join(path.Dir(key), list[i]))
			}
		}
	}
	return fmt.Errorf("sample %q has %s (%s) and %s (%s), want one of each: "+
		"the names of its members are cut at the first dot: give each picture a name of its own before it",
		key, names.Plural(len(pictures), "picture"), names.Few(pictures), names.Plural(len(labels), "label"),
		names.Few(labels))
}

// CountOthers counts the members that are neither pictures nor archives as left out.
func (l *Listing) CountOthers() {
	for _, o := range l.others {
		l.LeftOut.Count(filename.WhyLeftOut(o.name))
	}
}
