package main

import (
	"fmt"
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
)

const itemIndent, rowIndent = 8, 9

// item prints a part of the account beside its label, on more than one line where it is longer than a terminal is wide
// that nobody has changed. What programs read, and paths, are not printed so.
func (e *env) item(label, text string) { e.fold(itemIndent, label, strings.Fields(text)) }

// itemOf prints as item what is said of a path, which stays whole.
func (e *env) itemOf(label, path, text string) {
	e.fold(itemIndent, label, append([]string{path + ":"}, strings.Fields(text)...))
}

// row prints a line of what inspect finds beside its label.
func (e *env) row(label, text string, args ...any) {
	e.printf("%-*s%s", rowIndent, label, fmt.Sprintf(text, args...))
}

// textRow is row for text that may be longer than a line.
func (e *env) textRow(label, text string) { e.fold(rowIndent, label, strings.Fields(text)) }

func (e *env) fold(indent int, label string, words []string) {
	for _, line := range fill(words, format.LineWidth-indent) {
		e.printf("%-*s%s", indent, label, line)
		label = ""
	}
}
