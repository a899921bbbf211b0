package catalog

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ditrun/ditrun/internal/names"
)

// imagenetText is ImageNet-1k: the WordNet id and the words of each class, in the order of the labels. It was taken
// from timm (Apache-2.0), imagenet_synsets.txt and imagenet_synset_to_lemma.txt; the words are WordNet's.
//
//go:embed imagenet.txt
var imagenetText string

// Class is what a label stands for.
type Class struct {
	Synset string // WordNet id such as n01440764
	Words  string // tench, Tinca tinca
}

var imagenetClasses = sync.OnceValue(func() []Class {
	var list []Class
	for line := range strings.Lines(imagenetText) {
		synset, words, _ := strings.Cut(strings.TrimSpace(line), "\t")
		list = append(list, Class{synset, words})
	}
	return list
})

// ImageNetClasses returns the 1,000 classes of ImageNet-1k by label, as every program numbers them that sorts the
// folder names. Not to be modified.
func ImageNetClasses() []Class { return imagenetClasses() }

// imagenetLabel returns the label of a synset in ImageNet-1k.
func imagenetLabel(synset string) (int, bool) {
	return slices.BinarySearchFunc(ImageNetClasses(), synset,
		func(c Class, s string) int { return strings.Compare(c.Synset, s) })
}

// ClassWords returns what a class name means: the words of an ImageNet synset, the name itself else.
func ClassWords(name string) string {
	if label, ok := imagenetLabel(name); ok {
		return ImageNetClasses()[label].Words
	}
	return name
}

// asText makes the names of classes, as they were found, what manifests and checkpoints can hold. The order stays
// that of the bytes.
func asText(classes []string) []string {
	list := make([]string, len(classes))
	for i, name := range classes {
		list[i] = names.Text(name)
	}
	return list
}

// otherClasses words the first difference between the classes of a source and those found in a set, "" if there is
// none. Sets were once made with names that [names.Text] writes in another way.
func OtherClasses(classes, found []string) string {
	if len(classes) != len(found) {
		return fmt.Sprintf("%d instead of %d", len(found), len(classes))
	}
	for label, name := range classes {
		if old := found[label]; !names.Equal(name, old) && !names.Equal(name, names.Text(old)) {
			return fmt.Sprintf("class %d was called %q, and is now %q", label, old, name)
		}
	}
	return ""
}

// isSynset says whether a name is a WordNet id of a noun.
func isSynset(name string) bool {
	return len(name) == 9 && name[0] == 'n' && strings.Trim(name[1:], "0123456789") == ""
}

// ClassNotes says what is remarkable about the numbering of classes that are named by WordNet ids: models trained on
// ImageNet expect its own.
func ClassNotes(classes []string) []string {
	known, elsewhere := 0, ""
	for label, name := range classes {
		if !isSynset(name) {
			return nil
		}
		if l, ok := imagenetLabel(name); ok {
			known++
			if l != label && elsewhere == "" {
				elsewhere = fmt.Sprintf("%s (%s) is class %d here and %d there", name, ClassWords(name), label, l)
			}
		}
	}
	switch {
	case known == 0, known == len(classes) && elsewhere == "":
		return nil
	case elsewhere == "":
		return []string{fmt.Sprintf("%d classes, of which %d are in ImageNet-1k", len(classes), known)}
	}
	return []string{fmt.Sprintf("the classes are numbered otherwise than in ImageNet-1k: %s; models trained on "+
		"ImageNet take other labels", elsewhere)}
}

// classNames names n labels where only the files say what they are: by the WordNet id that all names of a label begin
// with, as ImageNet's do, else by numbers.
func classNames(n int, entries []entry) []string {
	names := make([]string, n)
	for _, e := range entries {
		base := e.name[strings.LastIndexByte(e.name, '/')+1:]
		synset, _, ok := strings.Cut(base, "_")
		if !ok || !isSynset(synset) || names[e.label] != "" && names[e.label] != synset {
			return numbered(n)
		}
		names[e.label] = synset
	}
	for label, name := range names {
		if name == "" { // no picture of it: ImageNet's name if the others are ImageNet's
			if n != len(ImageNetClasses()) {
				return numbered(n)
			}
			names[label] = ImageNetClasses()[label].Synset
		}
	}
	return names
}

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	return names
}
