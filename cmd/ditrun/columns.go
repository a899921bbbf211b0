package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
)

// columns writes rows of a label and a text, the texts under one another.
type columns struct {
	w   io.Writer
	err error // of the first write that failed
}

const labelWidth = 12

func (c *columns) row(label, text string) {
	text = strings.ReplaceAll(format.Text(text), "\n", "\n"+strings.Repeat(" ", labelWidth))
	if _, err := fmt.Fprintf(c.w, "%-*s%s\n", labelWidth, label, text); c.err == nil {
		c.err = err
	}
}

// plural writes "1 device", "2 devices" and "10 classes".
func plural(n int, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "s"):
		noun += "es"
	default:
		noun += "s"
	}
	return format.Count(int64(n)) + " " + noun
}
