package main

import (
	"fmt"
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
)

// item prints a part of the account beside its label, on more than one line where it is longer than a terminal is wide
// that nobody has changed. What programs read, and paths, are not printed so.
func (e *env) item(label, text string) {
	const indent = 8
	for _, line := range fill(strings.Fields(text), format.LineWidth-indent) {
		e.printf("%-*s%s", indent, label, line)
		label = ""
	}
}

// row prints a line of what inspect finds beside its label.
func (e *env) row(label, text string, args ...any) {
	e.printf("%-9s%s", label, fmt.Sprintf(text, args...))
}
