package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/names"
)

// showcase are the classes of ImageNet that DiT's sample.py shows.
var showcase = []int{207, 360, 387, 974, 88, 979, 417, 279}

// What stands before a number or a name that could be either.
const (
	labelPrefix = "label:"
	namePrefix  = "name:"
)

// parseClasses reads the values of --class-labels, which are numbers or names of classes, alone or apart by commas;
// without any it takes a set worth looking at. Found has a line for each class that was not given by its number or by
// its very name.
func parseClasses(values []string, info dit.Info) (labels []int, found []string, err error) {
	k := info.Config.NumClasses
	if len(values) == 0 {
		if k == 1000 {
			return showcase, nil, nil
		}
		for i := range min(k, 20) {
			labels = append(labels, i)
		}
		return labels, nil, nil
	}
	f := classFinder{count: k, names: info.Classes}
	for _, value := range values {
		chosen, err := f.value(value)
		if err != nil {
			return nil, nil, err
		}
		labels = append(labels, chosen...)
	}
	return labels, f.found, nil
}

// A classFinder finds classes by their numbers and names.
type classFinder struct {
	count int
	names []string // by label; a checkpoint may hold none, or fewer than there are classes
	found []string // see parseClasses
}

// value reads one value of the flag: a name with commas in it, else what stands between the commas.
func (f *classFinder) value(value string) ([]int, error) {
	if !strings.Contains(value, ",") {
		label, err := f.word(value, value)
		return []int{label}, err
	}
	labels, level := f.named(strings.TrimPrefix(value, namePrefix), upToSynonym)
	if len(labels) > 1 {
		return nil, f.several(value, labels, level)
	}
	parts := *f // whose lines count only where its classes do
	chosen, err := parts.words(value)
	if len(labels) == 1 {
		if level != exact || err == nil {
			f.say(value, labels[0])
		}
		return labels, nil
	}
	f.found = parts.found
	return chosen, err
}

// words finds the classes of the words between the commas of a value.
func (f *classFinder) words(value string) (labels []int, err error) {
	for _, word := range strings.Split(value, ",") {
		label, err := f.word(strings.TrimSpace(word), value)
		if err != nil {
			return nil, err
		}
		labels = append(labels, label)
	}
	return labels, nil
}

// word finds the class of one word of a value.
func (f *classFinder) word(word, value string) (int, error) {
	if strings.TrimSpace(word) == "" && (word != value || !slices.Contains(f.names, word)) {
		return 0, usagef("--class-labels: %q: want numbers or names of classes, separated by commas", value)
	}
	if number, ok := strings.CutPrefix(word, labelPrefix); ok {
		label, err := strconv.Atoi(strings.TrimSpace(number))
		if err != nil {
			return 0, usagef("--class-labels: %s: want a number after %s", word, labelPrefix)
		}
		return f.say(word, label), f.inRange(label)
	}
	if name, ok := strings.CutPrefix(word, namePrefix); ok {
		return f.name(name)
	}
	label, err := strconv.Atoi(strings.TrimSpace(word))
	if err != nil {
		return f.name(word)
	}
	named, level := f.named(word, upToCase)
	out := f.inRange(label)
	switch {
	case len(named) == 0:
		return label, out
	case out != nil && len(named) == 1: // no class has this number
		return named[0], nil
	case out != nil:
		return 0, f.several(word, named, level)
	case len(named) == 1 && named[0] == label:
		return label, nil
	}
	others := slices.DeleteFunc(slices.Clone(named), func(l int) bool { return l == label })
	return 0, usagef("--class-labels: %s is the label of class %q, and the name of class %s: write %s%d or %s%s", word,
		className(f.names, label), joined(others), labelPrefix, label, namePrefix, word)
}

// name finds the class that a name means.
func (f *classFinder) name(name string) (int, error) {
	labels, level := f.named(name, upToPart)
	switch {
	case len(labels) == 0:
		return 0, f.unknown(name)
	case len(labels) > 1:
		return 0, f.several(name, labels, level)
	case level != exact:
		f.say(name, labels[0])
	}
	return labels[0], nil
}

func (f *classFinder) inRange(label int) error {
	if label < 0 || label >= f.count {
		return usagef("--class-labels: %d: the model has classes 0 to %d", label, f.count-1)
	}
	return nil
}

// say keeps a line about the class that was found for a word.
func (f *classFinder) say(word string, label int) int {
	f.found = append(f.found, fmt.Sprintf("%s is %s", shownName(word), f.describe(label)))
	return label
}

// describe is the number of a class and its name, with the words of a synset: "207, n02099601 (golden retriever)".
func (f *classFinder) describe(label int) string {
	text := strconv.Itoa(label)
	if label >= 0 && label < len(f.names) {
		text += ", " + shownName(f.names[label])
		if words := catalog.ClassWords(f.names[label]); words != f.names[label] {
			text += " (" + words + ")"
		}
	}
	return text
}

// A nameLevel says how close a word is to the name of a class, the closest first.
type nameLevel int

const (
	exact nameLevel = iota
	trimmed
	upToCase    // equal but for the case
	upToSynonym // the words of a synset, or one of several names that commas part
	upToPart    // some of the words of a name, in their order: "boot" is in "Ankle boot", "cat" is not in "cattle"
	numLevels
)

// named returns the classes whose names are closest to a word, down to a level.
func (f *classFinder) named(word string, lowest nameLevel) ([]int, nameLevel) {
	for level := exact; level <= lowest; level++ {
		var labels []int
		for label, name := range f.names[:min(len(f.names), f.count)] {
			if isNamed(name, word, level) {
				labels = append(labels, label)
			}
		}
		if labels != nil {
			return labels, level
		}
	}
	return nil, numLevels
}

// isNamed says whether a word is as close to a name as a level asks for.
func isNamed(name, word string, level nameLevel) bool {
	given := strings.TrimSpace(names.Given(word))
	switch level {
	case exact:
		return names.Equal(name, names.Given(word)) || shownName(name) == word
	case trimmed:
		return names.Equal(strings.TrimSpace(name), given)
	case upToCase:
		return strings.EqualFold(names.Canonical(strings.TrimSpace(name)), names.Canonical(given))
	case upToSynonym:
		given = names.Canonical(given)
		return slices.ContainsFunc(synonyms(name), func(s string) bool { return strings.EqualFold(s, given) })
	case upToPart:
		part := wordsOf(given)
		return part != noWords && (strings.Contains(wordsOf(name), part) ||
			strings.Contains(wordsOf(catalog.ClassWords(name)), part))
	}
	return false
}

// synonyms are the words of a class, of an ImageNet synset or such a list by itself, whole and each alone.
func synonyms(name string) []string {
	words := names.Canonical(catalog.ClassWords(name))
	list := []string{words}
	for s := range strings.SplitSeq(words, ",") {
		list = append(list, strings.TrimSpace(s))
	}
	return list
}

// wordsOf returns the words in a text in lower case, with one blank before and after each.
func wordsOf(text string) string {
	words := strings.FieldsFunc(strings.ToLower(names.Canonical(text)), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
	})
	return " " + strings.Join(words, " ") + " "
}

// noWords is what wordsOf returns for text without any.
const noWords = "  "

// shownClasses is how many classes a message lists.
const shownClasses = 20

func (f *classFinder) several(word string, labels []int, level nameLevel) error {
	how := map[nameLevel]string{exact: "the name", trimmed: "the name", upToCase: "but for the case the name",
		upToSynonym: "a name", upToPart: "part of the name"}[level]
	var list []string
	for _, label := range labels[:min(len(labels), shownClasses)] {
		list = append(list, f.describe(label))
	}
	if n := len(labels) - len(list); n > 0 {
		list = append(list, fmt.Sprintf("and %d more", n))
	}
	err := usagef("--class-labels: %s is %s of several classes: %s", shownName(word), how, strings.Join(list, "; "))
	return withHint(err, "give the number of one, as in %s%d", labelPrefix, labels[0])
}

func (f *classFinder) unknown(name string) error {
	if len(f.names) == 0 {
		hint := fmt.Sprintf("the numbers are 0 to %d", f.count-1)
		if f.count == len(catalog.ImageNetClasses()) {
			hint += "; if they are ImageNet's, `ditrun classes WORD` finds them"
		}
		err := usagef("--class-labels: %q: the checkpoint holds no names of classes, want numbers", name)
		return withHint(err, "%s", hint)
	}
	err := usagef("--class-labels: no class is named %q", name)
	given := names.Canonical(strings.TrimSpace(names.Given(name)))
	var all, longer, shown []string
	for _, n := range f.names {
		shown = append(shown, shownName(n))
		all = append(all, names.Canonical(n))
		for _, s := range synonyms(n)[1:] {
			all = append(all, s)
			if len(longer) < shownClasses && wordsOf(given) != noWords &&
				strings.Contains(strings.ToLower(s), strings.ToLower(given)) {
				longer = append(longer, shownName(s))
			}
		}
	}
	switch n := nearest(given, all); {
	case len(longer) > 0:
		return withHint(err, "longer words have it: %s", strings.Join(longer, ", "))
	case n != "":
		return withHint(err, "did you mean %s?", shownName(n))
	case len(shown) > shownClasses:
		return withHint(err, "the first classes are %s", strings.Join(shown[:shownClasses], ", "))
	}
	return withHint(err, "the classes are %s", strings.Join(shown, ", "))
}

// shownName makes the name of a class one that can be read: control characters are escaped, and a name with blanks at
// its ends stands in quotes. [classFinder] takes a name as it is shown.
func shownName(name string) string {
	line := strings.ReplaceAll(format.Line(name), "\t", `\t`)
	if line == "" || strings.TrimSpace(line) != line {
		return `"` + line + `"`
	}
	return line
}

func joined(labels []int) string {
	var list []string
	for _, l := range labels {
		list = append(list, strconv.Itoa(l))
	}
	return strings.Join(list, ", ")
}
