package classes

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
)

// What stands before a number or a name that could be either.
const (
	labelPrefix = "label:"
	namePrefix  = "name:"
)

// Words that stand for more than one class.
const (
	allClasses    = "all"
	randomClass   = "random"
	balancedClass = "balanced"
)

// Find returns the labels of the classes that a user names, in the order given. A value is a number ("3"), a name
// ("cat"), a range of numbers ("0-9"), "all", or several of these with commas between them; "label:3" is the number
// and "name:3" the name where both are possible. A name is looked for as it is, in any case, among the words of a
// synset ("golden retriever") and, last, as a part of a name ("boot" for "Ankle boot"). It has to mean a single
// class.
//
// The model has n classes, called classNames by label: there may be fewer names than classes, or none. Found has a line
// for each class that was given neither by its number nor by its very name, such as "boot is 9, Ankle boot". Errors are
// of type [*FindError].
func Find(n int, classNames, values []string) (labels []int, found []string, err error) {
	f := finder{n: n, names: classNames}
	for _, value := range values {
		of, err := f.value(value)
		if err != nil {
			return nil, nil, err
		}
		labels = append(labels, of...)
	}
	return labels, f.found, nil
}

// All returns the labels of n classes.
func All(n int) []int {
	labels := make([]int, n)
	for i := range labels {
		labels[i] = i
	}
	return labels
}

// AskForRandom says whether values ask for a class at random for each picture: by "random" alone, or "label:random"
// where a class is called so, which is else an error.
func AskForRandom(classNames, values []string) (bool, error) {
	return askFor(randomClass, "a class at random", classNames, values)
}

// AskForBalanced says in the same way, by "balanced", whether values ask for all classes in turn.
func AskForBalanced(classNames, values []string) (bool, error) {
	return askFor(balancedClass, "all classes in turn", classNames, values)
}

func askFor(word, meaning string, classNames, values []string) (bool, error) {
	if len(values) != 1 || strings.TrimPrefix(values[0], labelPrefix) != word {
		return false, nil
	}
	f := finder{n: len(classNames), names: classNames}
	if called, _ := f.called(word, upToCase); values[0] == word && len(called) > 0 {
		return false, twoMeanings(word, meaning, word, called)
	}
	return true, nil
}

// Showcase returns labels of n classes that are worth looking at: of ImageNet's 1,000 those that DiT's sample.py shows,
// else the first, at most 20.
func Showcase(n int) []int {
	if n == len(ImageNet()) {
		return []int{207, 360, 387, 974, 88, 979, 417, 279}
	}
	return All(min(n, 20))
}

// A FindError is that of a value which means no class, or several.
type FindError struct {
	Text string
	Hint string // what to do, such as "did you mean cat?", or ""
}

func (e *FindError) Error() string { return e.Text }

func findError(hint, format string, args ...any) error {
	return &FindError{Text: fmt.Sprintf(format, args...), Hint: hint}
}

type finder struct {
	n     int
	names []string // by label
	found []string // see Find
}

// value finds the classes of a value: a name with commas in it, else of what stands between the commas.
func (f *finder) value(value string) ([]int, error) {
	if !strings.Contains(value, ",") {
		return f.word(value, value)
	}
	labels, level := f.called(strings.TrimPrefix(value, namePrefix), upToSynonym)
	if len(labels) > 1 {
		return nil, f.several(value, labels, level)
	}
	parts := *f // its lines count only where its classes do
	ofParts, err := parts.words(value)
	if len(labels) == 1 {
		if level != exact || err == nil {
			f.note(value, labels[0])
		}
		return labels, nil
	}
	f.found = parts.found
	return ofParts, err
}

// words finds the classes of the words between the commas of a value. Neighbours that make up the name of a class with
// commas in it are one word.
func (f *finder) words(value string) (labels []int, err error) {
	parts, commas := strings.Split(value, ","), 0
	for _, name := range f.names {
		commas = max(commas, strings.Count(name, ","))
	}
	for len(parts) > 0 {
		label, n := f.joined(parts[:min(commas+1, len(parts))])
		if n > 0 {
			labels, parts = append(labels, label), parts[n:]
			continue
		}
		of, err := f.word(strings.TrimSpace(parts[0]), value)
		if err != nil {
			return nil, err
		}
		labels, parts = append(labels, of...), parts[1:]
	}
	return labels, nil
}

// joined finds the class whose name is the first n of the parts, as many as can be, at least 2; n is 0 where there is
// none.
func (f *finder) joined(parts []string) (label, n int) {
	if _, err := strconv.Atoi(strings.TrimSpace(parts[0])); err == nil { // as in long lists of numbers
		return 0, 0
	}
	for n = len(parts); n > 1; n-- {
		name := strings.TrimPrefix(strings.TrimSpace(strings.Join(parts[:n], ",")), namePrefix)
		if called, _ := f.called(name, upToCase); len(called) == 1 {
			return called[0], n
		}
	}
	return 0, 0
}

// word finds the classes of one word of a value: of a set of them, or a single one.
func (f *finder) word(word, value string) ([]int, error) {
	set, meaning, err := f.set(strings.TrimPrefix(strings.TrimSpace(word), labelPrefix))
	switch {
	case meaning == "":
		label, err := f.single(word, value)
		return []int{label}, err
	case !strings.HasPrefix(strings.TrimSpace(word), labelPrefix):
		if called, _ := f.called(word, upToCase); len(called) > 0 {
			return nil, twoMeanings(word, meaning, word, called)
		}
	}
	return set, err
}

var numberRange = regexp.MustCompile(`^([0-9]{1,9})-([0-9]{1,9})$`)

// set finds the classes of a word that stands for several, and says what it means: "" where it is no such word.
func (f *finder) set(word string) (labels []int, meaning string, err error) {
	if word == allClasses {
		return All(f.n), "every class", nil
	}
	ends := numberRange.FindStringSubmatch(word)
	if ends == nil {
		return nil, "", nil
	}
	first, _ := strconv.Atoi(ends[1]) // nine digits
	last, _ := strconv.Atoi(ends[2])
	meaning = fmt.Sprintf("classes %d to %d", first, last)
	switch {
	case first > last:
		return nil, meaning, findError("", "%s: want the lower number first", word)
	case last >= f.n:
		return nil, meaning, f.inRange(last)
	}
	return All(f.n)[first : last+1], meaning, nil
}

// single finds the class of a word that means one.
func (f *finder) single(word, value string) (int, error) {
	if strings.TrimSpace(word) == "" && (word != value || !slices.Contains(f.names, word)) {
		return 0, findError("", "%q: want numbers or names of classes, separated by commas", value)
	}
	if number, ok := strings.CutPrefix(word, labelPrefix); ok {
		label, err := strconv.Atoi(strings.TrimSpace(number))
		if err != nil {
			return 0, findError("", "%s: want a number after %s", word, labelPrefix)
		}
		f.note(word, label)
		return label, f.inRange(label)
	}
	if name, ok := strings.CutPrefix(word, namePrefix); ok {
		return f.name(name)
	}
	label, err := strconv.Atoi(strings.TrimSpace(word))
	if err != nil {
		return f.name(word)
	}
	return f.number(word, label)
}

// number finds the class of a word that is a number: that of this label, or one whose name it is.
func (f *finder) number(word string, label int) (int, error) {
	called, level := f.called(word, upToCase)
	outOfRange := f.inRange(label)
	switch {
	case len(called) == 0:
		return label, outOfRange
	case outOfRange != nil && len(called) == 1: // no class has this number
		return called[0], nil
	case outOfRange != nil:
		return 0, f.several(word, called, level)
	case len(called) == 1 && called[0] == label:
		return label, nil
	}
	others := slices.DeleteFunc(slices.Clone(called), func(l int) bool { return l == label })
	name := strconv.Itoa(label)
	if label < len(f.names) {
		name = f.names[label]
	}
	return 0, twoMeanings(word, fmt.Sprintf("the label of class %q", name), strconv.Itoa(label), others)
}

// twoMeanings is the error of a word that has a meaning of its own, for which a prefix and asLabel stand, and is the
// name of classes too.
func twoMeanings(word, meaning, asLabel string, called []int) error {
	return findError("", "%s is %s, and the name of class %s: write %s%s or %s%s", word, meaning, joined(called),
		labelPrefix, asLabel, namePrefix, word)
}

// name finds the class that a name means.
func (f *finder) name(name string) (int, error) {
	labels, level := f.called(name, upToPart)
	switch {
	case len(labels) == 0:
		return 0, f.unknown(name)
	case len(labels) > 1:
		return 0, f.several(name, labels, level)
	case level != exact:
		f.note(name, labels[0])
	}
	return labels[0], nil
}

func (f *finder) inRange(label int) error {
	if label < 0 || label >= f.n {
		return findError("", "%d: the model has classes 0 to %d", label, f.n-1)
	}
	return nil
}

// called returns the classes whose names are closest to a word, down to a level.
func (f *finder) called(word string, lowest nameLevel) ([]int, nameLevel) {
	for level := exact; level <= lowest; level++ {
		var labels []int
		for label, name := range f.names[:min(len(f.names), f.n)] {
			if isCalled(name, word, level) {
				labels = append(labels, label)
			}
		}
		if labels != nil {
			return labels, level
		}
	}
	return nil, numLevels
}

// note keeps a line about the class that was found for a word.
func (f *finder) note(word string, label int) {
	f.found = append(f.found, fmt.Sprintf("%s is %s", Shown(word), f.describe(label)))
}

// describe is the number of a class and its name, with the words of a synset: "207, n02099601 (golden retriever)".
func (f *finder) describe(label int) string {
	text := strconv.Itoa(label)
	if label >= 0 && label < len(f.names) {
		text += ", " + Shown(f.names[label])
		if words := Words(f.names[label]); words != f.names[label] {
			text += " (" + words + ")"
		}
	}
	return text
}

// mostListed is how many classes a message lists.
const mostListed = 20

// several is the error of a word that means several classes.
func (f *finder) several(word string, labels []int, level nameLevel) error {
	how := map[nameLevel]string{exact: "the name of several classes", trimmed: "the name of several classes",
		upToCase: "the name of several classes if case is ignored", upToSynonym: "a name of several classes",
		upToPart: "part of the name of several classes"}[level]
	var list []string
	for _, label := range labels[:min(len(labels), mostListed)] {
		list = append(list, f.describe(label))
	}
	if n := len(labels) - len(list); n > 0 {
		list = append(list, fmt.Sprintf("and %d more", n))
	}
	return findError(fmt.Sprintf("give the number of one, as in %s%d", labelPrefix, labels[0]),
		"%s is %s: %s", Shown(word), how, strings.Join(list, "; "))
}

// unknown is the error of a name that no class has.
func (f *finder) unknown(name string) error {
	if len(f.names) == 0 {
		hint := fmt.Sprintf("the numbers are 0 to %d", f.n-1)
		if f.n == len(ImageNet()) {
			hint += "; if they are ImageNet's, `ditrun classes WORD` finds them"
		}
		return findError(hint, "%q: the checkpoint has no class names: give numbers", name)
	}
	given := names.Canonical(strings.TrimSpace(names.Given(name)))
	var all, longer, shown []string
	for _, n := range f.names {
		shown = append(shown, Shown(n))
		all = append(all, names.Canonical(n))
		for _, s := range synonyms(n)[1:] {
			all = append(all, s)
			if len(longer) < mostListed && wordsOf(given) != noWords &&
				strings.Contains(strings.ToLower(s), strings.ToLower(given)) {
				longer = append(longer, Shown(s))
			}
		}
	}
	hint := "the classes are " + strings.Join(shown, ", ")
	if len(shown) > mostListed {
		hint = "the first classes are " + strings.Join(shown[:mostListed], ", ")
	}
	if n := names.Nearest(given, all); len(longer) > 0 {
		hint = "it is part of longer words: " + strings.Join(longer, ", ")
	} else if n != "" {
		hint = fmt.Sprintf("did you mean %s?", Shown(n))
	}
	return findError(hint, "no class is named %q", name)
}

func joined(labels []int) string {
	var list []string
	for _, l := range labels {
		list = append(list, strconv.Itoa(l))
	}
	return strings.Join(list, ", ")
}
