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
	return fmt.Sprintf("%s (and %d others)", strings.Join(list[:most], ", "), len(list)-most)
}

// Plural is a number of things by their name: "1 picture", "3 pictures".
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
