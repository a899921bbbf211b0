package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/internal/names"
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

// text is row for text that may be longer than a line. Paths stay whole in a row alone.
func (c *columns) text(label, text string) {
	c.row(label, strings.Join(fill(strings.Fields(text), format.LineWidth-labelWidth), "\n"))
}

// plural writes "1 device", "2 devices" and "10 classes".
func plural(n int, noun string) string { return format.Count(int64(n)) + " " + names.Noun(n, noun) }

// A page is text for a terminal of some width.
type page struct {
	strings.Builder
	width int
}

// Text is set to the width of the terminal between these: narrower it falls apart, wider lines are hard to read.
const (
	minWidth = 40
	maxWidth = 100
)

// widthOf is the width of text that is written to w: what the environment says in COLUMNS, else that of the terminal.
func widthOf(w io.Writer) int {
	width := format.LineWidth
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		width = n
	} else if f, ok := direct(w).(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			width = n
		}
	}
	return min(max(width, minWidth), maxWidth)
}

// title begins a part of the page.
func (p *page) title(text string) { p.WriteString("\n" + text + ":\n") }

// textWord is a word of a text; what stands in backquotes is one, with its blanks.
var textWord = regexp.MustCompile("`[^`]*`\\S*|\\S+")

// text writes paragraphs, which empty lines separate, after a label, below which no line begins. An empty line at the
// start stays.
func (p *page) text(label, text string) {
	if rest, ok := strings.CutPrefix(text, "\n"); ok {
		p.WriteString("\n")
		text = rest
	}
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			p.WriteString("\n")
		}
		p.hang(label, utf8.RuneCountInString(label), textWord.FindAllString(paragraph, -1))
	}
}

// row writes a label, indented, and words beside it, wrapped within their column. Words begin where the longest label
// of the page, of labelWidth, would have them begin, but have three fifths of the page: a label that is too long for
// that stands above them. On a narrow page all do.
func (p *page) row(labelWidth int, label string, words []string) {
	const indent, gap, furtherIndent, minColumn = 2, 2, 8, 30
	column := min(indent+labelWidth+gap, p.width*2/5)
	if p.width-column < minColumn {
		column = furtherIndent
	}
	label = strings.Repeat(" ", indent) + label
	if len(words) == 0 || utf8.RuneCountInString(label)+gap > column {
		p.WriteString(label + "\n")
		label = ""
	}
	p.hang(label, column, words)
}

// hang writes a label and, from a column on, words. One with blanks in it is broken only where it is too long for a
// line.
func (p *page) hang(label string, column int, words []string) {
	var parts []string
	for _, word := range words {
		if utf8.RuneCountInString(word) > p.width-column {
			parts = append(parts, strings.Fields(word)...)
			continue
		}
		parts = append(parts, word)
	}
	for i, line := range fill(parts, p.width-column) {
		if i > 0 {
			label = ""
		}
		p.WriteString(label + strings.Repeat(" ", column-utf8.RuneCountInString(label)) + line + "\n")
	}
}

// fill makes lines of at most width characters of words; a word that is longer has a line of its own.
func fill(words []string, width int) (lines []string) {
	for _, word := range words {
		if last := len(lines) - 1; last >= 0 && utf8.RuneCountInString(lines[last]+" "+word) <= width {
			lines[last] += " " + word
			continue
		}
		lines = append(lines, word)
	}
	return lines
}

// shellWord is a word of a command line, quotes and blanks between them included.
var shellWord = regexp.MustCompile(`(?:'[^']*'|"[^"]*"|[^\s'"])+`)

// examples writes command lines. One that is too long goes on after a backslash, before a flag, so that it can be
// pasted as it stands; a flag that is too long with its value stays whole.
func (p *page) examples(lines string) {
	const indent, further, broken = "  ", "      ", " \\"
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		line = strings.TrimSpace(line)
		if utf8.RuneCountInString(indent+line) <= p.width {
			p.WriteString(indent + line + "\n")
			continue
		}
		var parts []string // the command, and each flag with its value
		for _, word := range shellWord.FindAllString(line, -1) {
			if len(parts) == 0 || strings.HasPrefix(word, "-") {
				parts = append(parts, word)
				continue
			}
			parts[len(parts)-1] += " " + word
		}
		p.WriteString(indent + strings.Join(fill(parts, p.width-len(further+broken)), broken+"\n"+further) + "\n")
	}
}
