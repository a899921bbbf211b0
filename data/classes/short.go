package classes

import "strings"

// Short is the name of a class where there is little room. The words of an ImageNet class are synonyms with commas
// between them, of which the first is the customary name: n01440764, and "tench, Tinca tinca", are a tench. All other
// names, with their commas, stay what they are.
func Short(name string) string {
	words := Words(name)
	if words == name && !isImageNetWords(name) {
		return name
	}
	first, _, _ := strings.Cut(words, ",")
	return first
}

func isImageNetWords(name string) bool {
	if !strings.Contains(name, ",") {
		return false
	}
	for _, c := range ImageNet() {
		if c.Words == name {
			return true
		}
	}
	return false
}
