package names

import (
	"fmt"
	"strings"
)

// Few lists the first of many names in a line, and says how many others there are.
func Few(list []string) string {
	const most = 3
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s (and %s)", strings.Join(list[:most], ", "), Plural(len(list)-most, "other"))
}

// Plural is a number of things by their name: "1 picture", "3 pictures", "2 classes".
func Plural(n int, noun string) string { return fmt.Sprintf("%d %s", n, Noun(n, noun)) }

// Noun is the name of a thing as a number of them has it: "picture" of 1, "classes" of 2.
func Noun(n int, noun string) string {
	switch {
	case n == 1:
		return noun
	case strings.HasSuffix(noun, "s"), strings.HasSuffix(noun, "ch"):
		return noun + "es"
	}
	return noun + "s"
}
