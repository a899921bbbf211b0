package classes

import (
	"slices"
	"strings"
	"unicode"

	"github.com/ditrun/ditrun/internal/names"
)

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

// isCalled says whether a word is as close to a name as a level asks for.
func isCalled(name, word string, level nameLevel) bool {
	given := strings.TrimSpace(names.Given(word))
	switch level {
	case exact:
		return names.Equal(name, names.Given(word)) || Shown(name) == word
	case trimmed:
		return names.Equal(strings.TrimSpace(name), given)
	case upToCase:
		return strings.EqualFold(names.Canonical(strings.TrimSpace(name)), names.Canonical(given))
	case upToSynonym:
		given = names.Canonical(given)
		return slices.ContainsFunc(synonyms(name), func(s string) bool { return strings.EqualFold(s, given) })
	case upToPart:
		part := wordsOf(given)
		return part != noWords &&
			(strings.Contains(wordsOf(name), part) || strings.Contains(wordsOf(Words(name)), part))
	}
	return false
}

// synonyms are the words of a class, of an ImageNet synset or such a list by itself, whole and each alone.
func synonyms(name string) []string {
	words := names.Canonical(Words(name))
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

// Has says whether a class has all of the words, in any case and anywhere: in its name, as it is or as [Shown], or in
// [Words] of it.
func Has(name string, words []string) bool {
	text := strings.ToLower(names.Canonical(name + "\n" + Shown(name) + "\n" + Words(name)))
	for _, w := range words {
		if !strings.Contains(text, strings.ToLower(names.Canonical(names.Given(w)))) {
			return false
		}
	}
	return true
}

// Shown makes the name of a class one that can be read: control characters are escaped, and a name with blanks at its
// ends stands in quotes. [Find] takes a name as it is shown.
func Shown(name string) string {
	line := strings.ReplaceAll(names.Visible(name, "\t"), "\t", `\t`)
	if line == "" || strings.TrimSpace(line) != line {
		return `"` + line + `"`
	}
	return line
}
