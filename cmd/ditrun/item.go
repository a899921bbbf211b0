package main

import "strings"

// item prints a part of the account beside its label, on more than one line where it is longer than a terminal is wide
// that nobody has changed. What programs read, and paths, are not printed so.
func (e *env) item(label, text string) {
	const indent = 8
	for _, line := range fill(strings.Fields(text), defaultWidth-indent) {
		e.printf("%-*s%s", indent, label, line)
		label = ""
	}
}
