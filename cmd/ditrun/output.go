package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

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

// printMessage writes "ditrun: KIND: text"; further lines of text are indented
// so that they read as one message.
func printMessage(w io.Writer, kind, text string) {
	text = strings.ReplaceAll(strings.TrimSpace(format.Text(text)), "\n", "\n  ")
	fmt.Fprintf(w, "ditrun: %s: %s\n", kind, text)
}
