package classes

import (
	_ "embed"
	"slices"
	"strings"
	"sync"
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

// ImageNet returns the 1,000 classes of ImageNet-1k by label, as every program numbers them that sorts the folder
// names. Not to be modified.
func ImageNet() []Class { return imagenetClasses() }

// ImageNetNames returns the names of the folders of ImageNet-1k by label: its synsets.
func ImageNetNames() []string {
	list := make([]string, len(ImageNet()))
	for label, c := range ImageNet() {
		list[label] = c.Synset
	}
	return list
}

// ImageNetLabel returns the label of a synset in ImageNet-1k.
func ImageNetLabel(synset string) (int, bool) {
	return slices.BinarySearchFunc(ImageNet(), synset,
		func(c Class, s string) int { return strings.Compare(c.Synset, s) })
}

// Words returns what a class name means: the words of an ImageNet synset, the name itself else.
func Words(name string) string {
	if label, ok := ImageNetLabel(name); ok {
		return ImageNet()[label].Words
	}
	return name
}

// IsSynset says whether a name is a WordNet id of a noun.
func IsSynset(name string) bool {
	return len(name) == 9 && name[0] == 'n' && strings.Trim(name[1:], "0123456789") == ""
}
