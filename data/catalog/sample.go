package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/internal/names"
)

// label says of which class a picture is: by a number, or by a name where there is one.
type label struct {
	number int32
	class  string
}

func (l label) String() string {
	if l.class != "" {
		return l.class
	}
	return strconv.Itoa(int(l.number))
}

// maxLabel bounds the number of classes that a file may ask for.
const maxLabel = 1 << 20

// maxClassName bounds the name of a class, in bytes.
const maxClassName = 1000

func numberLabel(v int64) (label, error) {
	switch {
	case v == -1:
		return label{}, fmt.Errorf("label -1: want a number from 0 to %d: -1 stands for no label, as in test sets",
			maxLabel)
	case v < 0 || v > maxLabel:
		return label{}, fmt.Errorf("label %d: want a number from 0 to %d", v, maxLabel)
	}
	return label{number: int32(v)}, nil
}

// parseLabel takes a whole number, or else a name that is none.
func parseLabel(text string) (label, error) {
	text = strings.TrimSpace(text)
	v, err := strconv.ParseInt(text, 10, 64)
	if err == nil {
		return numberLabel(v)
	}
	if _, ferr := strconv.ParseFloat(text, 64); ferr == nil || errors.Is(ferr, strconv.ErrRange) || text == "" {
		return label{}, fmt.Errorf("label %.40q: want a number from 0 to %d or a class name", text, maxLabel)
	}
	if len(text) > maxClassName || strings.ContainsAny(text, "\r\n\x00") {
		return label{}, fmt.Errorf("label %.40q...: want a class name of one line and at most %d bytes",
			text, maxClassName)
	}
	return label{class: text}, nil
}

// otherLabel is the error of a field that holds something else than a label, such as a list of objects.
type otherLabel struct{ text string }

func (e *otherLabel) Error() string {
	return fmt.Sprintf("label %.40s: want a number from 0 to %d or a class name", e.text, maxLabel)
}

// labelOfJSON finds the label in a member .json: a number in one of the usual fields, else a name.
func labelOfJSON(text []byte) (l label, found bool, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return l, false, &otherLabel{"that is no JSON object"}
	}
	for _, key := range []string{"label", "cls", "class_id"} {
		var v *float64
		if json.Unmarshal(fields[key], &v) == nil && v != nil {
			if *v == math.Trunc(*v) && math.Abs(*v) < 1<<53 {
				l, err = numberLabel(int64(*v))
			} else {
				l, err = parseLabel(strconv.FormatFloat(*v, 'f', -1, 64))
			}
			return l, err == nil, err
		}
	}
	for _, key := range []string{"label", "cls", "class_name", "class_id"} {
		raw, ok := fields[key]
		if !ok || string(raw) == "null" {
			continue
		}
		var name string
		if json.Unmarshal(raw, &name) != nil {
			err = &otherLabel{string(raw)}
			continue
		}
		l, err := parseLabel(name)
		return l, err == nil, err
	}
	return l, false, err
}

// other is a member of an archive that is no picture.
type other struct {
	name  string
	label label
	found bool  // it has a label
	err   error // why it has none that can be used

	differs bool // a member .json beside it says another
}

// sampleKey is the name up to the first dot of its base, which the members of a WebDataset sample share.
func sampleKey(name string) string {
	base := strings.LastIndexByte(name, '/') + 1
	if dot := strings.IndexByte(name[base:], '.'); dot >= 0 {
		return name[:base+dot]
	}
	return name
}

// isWhole says whether the extension of a name is all that follows its key.
func isWhole(name string) bool { return sampleKey(name)+path.Ext(name) == name }

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
func (s *sample) takePicture(l *listing, i int32) {
	if s.pictures++; s.pictures == 1 {
		s.picture = i
		return
	}
	switch now, new := isWhole(l.pictures[s.picture].name), isWhole(l.pictures[i].name); {
	case new && !now:
		s.picture, s.clash = i, false
	case new == now:
		s.clash = true
	}
}

// take adds member j.
func (m *labelMember) take(l *listing, j int32) {
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

// resolve counts the members that belong to no picture as left out and, where byMembers, labels the pictures by the
// members that share their keys, wherever these are in the archive.
func (l *listing) resolve(byMembers bool) error {
	if len(l.others) == 0 {
		return nil
	}
	number := make(map[string]int32, len(l.pictures))
	samples := make([]sample, 0, len(l.pictures))
	for i, m := range l.pictures {
		key := sampleKey(m.name)
		k, ok := number[key]
		if !ok {
			k = int32(len(samples))
			number[key] = k
			samples = append(samples, sample{cls: labelMember{at: -1}, json: labelMember{at: -1}, noLabel: -1})
		}
		samples[k].takePicture(l, int32(i))
	}
	labels := false
	for j, o := range l.others {
		k, ok := number[sampleKey(o.name)]
		switch cls := strings.EqualFold(path.Ext(o.name), ".cls"); {
		case !ok:
			l.left.Count(filename.WhyLeftOut(o.name))
			if dir := path.Dir(o.name); dir != "." {
				l.folders[dir] = true
			}
		case cls:
			samples[k].cls.take(l, int32(j))
			labels = true
		case errors.As(o.err, new(*otherLabel)):
			samples[k].noLabel = int32(j)
		case o.found || o.err != nil:
			samples[k].json.take(l, int32(j))
			labels = true
		}
	}
	if !labels || !byMembers {
		return nil
	}
	kept := l.pictures[:0]
	for i, m := range l.pictures {
		s := samples[number[sampleKey(m.name)]]
		lab, err := l.labelOf(&s)
		switch {
		case err != nil:
			return err
		case lab == nil:
			kept = append(kept, m)
		case s.picture == int32(i):
			if s.pictures > 1 {
				l.left[furtherPictures] += int(s.pictures) - 1
			}
			m.label, m.class, m.labelled = lab.label.number, lab.label.class, true
			kept = append(kept, m)
		}
	}
	l.pictures = kept
	return nil
}

// furtherPictures is the kind of filename.LeftOut of pictures such as image.mask.png.
const furtherPictures = "further pictures of a sample"

// labelOf returns the member with the label of a sample, nil if it has none.
func (l *listing) labelOf(s *sample) (*other, error) {
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
	if s.clash || at.clash || s.pictures > 1 && !(isWhole(l.pictures[s.picture].name) && isWhole(o.name)) {
		return nil, l.clashError(sampleKey(o.name))
	}
	if o.err != nil {
		return nil, fmt.Errorf("%s: %w", o.name, o.err)
	}
	if at == s.cls && s.json.at >= 0 {
		j := &l.others[s.json.at]
		if a, b := o.label, j.label; j.found && (a.class == "") == (b.class == "") && a != b && !o.differs {
			o.differs = true
			l.differ++
		}
	}
	return o, nil
}

// clashError says what an archive holds under a key.
func (l *listing) clashError(key string) error {
	var pictures, labels []string
	for _, m := range l.pictures {
		if sampleKey(m.name) == key {
			pictures = append(pictures, path.Base(m.name))
		}
	}
	for _, o := range l.others {
		if sampleKey(o.name) == key && (o.found || o.err != nil) {
			labels = append(labels, path.Base(o.name))
		}
	}
	for _, names := range [][]string{pictures, labels} {
		slices.Sort(names)
		for i := range len(names) - 1 {
			if names[i] == names[i+1] {
				return fmt.Errorf("%s is there twice: pack the archive again from its files",
					path.Join(path.Dir(key), names[i]))
			}
		}
	}
	return fmt.Errorf("sample %q has %s (%s) and %s (%s), want one of each: "+
		"the names of its members are cut at the first dot: give each picture a name of its own before it",
		key, names.Plural(len(pictures), "picture"), names.Few(pictures), names.Plural(len(labels), "label"), names.Few(labels))
}
