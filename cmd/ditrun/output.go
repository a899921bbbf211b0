package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
)

// output is standard output: it remembers that it could not be written. Who prints goes on; a command that ends well
// but whose output is lost has failed.
type output struct {
	io.Writer
	err    error  // of the first write that failed
	closed func() // called where nobody reads any more; may be nil
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if err != nil && o.err == nil {
		o.err = err
		if errors.Is(err, syscall.EPIPE) && o.closed != nil {
			o.closed()
		}
	}
	return n, err
}

// lost returns the error of the first write to w that failed, once.
func lost(w io.Writer) error {
	o, ok := w.(*output)
	if !ok {
		return nil
	}
	err := o.err
	o.err = nil
	return err
}

// direct is w as it was given: what a process that is started gets for its own.
func direct(w io.Writer) io.Writer {
	if o, ok := w.(*output); ok {
		return o.Writer
	}
	return w
}

// printMessage writes "ditrun: KIND: text"; further lines of text are indented so that they read as one message. Lines
// are broken at width, between words; 0 leaves them whole.
func printMessage(w io.Writer, width int, kind, text string) {
	const indent = "  "
	var lines []string
	for line := range strings.Lines("ditrun: " + kind + ": " + strings.TrimSpace(format.Text(text))) {
		line = strings.TrimSuffix(line, "\n")
		if utf8.RuneCountInString(indent+line) <= width || width == 0 {
			lines = append(lines, line)
			continue
		}
		lines = append(lines, fill(textWord.FindAllString(line, -1), width-len(indent))...)
	}
	fmt.Fprintln(w, strings.Join(lines, "\n"+indent))
}

// messageWidth is that of a terminal. Elsewhere, where programs read it, a message is not broken.
func messageWidth(w io.Writer) int {
	if f, ok := direct(w).(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return widthOf(w)
	}
	return 0
}
