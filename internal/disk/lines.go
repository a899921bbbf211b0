package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
)

// A Line is one line of a text file, without its end.
type Line struct {
	Number int // from 1
	Text   string
}

// byteOrderMark stands before the first line of files that some editors and spreadsheets write.
const byteOrderMark = "\ufeff"

// Lines yields the lines of a text file that people or programs wrote, of at most longest bytes each: ended by LF or CRLF,
// without a byte order mark. An error, which names the line, is the last that it yields.
func Lines(in io.Reader, longest int) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		s := bufio.NewScanner(in)
		s.Buffer(make([]byte, min(longest, 1<<16)), longest+2) // and its end
		n := 0
		for s.Scan() {
			n++
			text := s.Text()
			if n == 1 {
				text = strings.TrimPrefix(text, byteOrderMark)
			}
			if !yield(Line{n, text}, nil) {
				return
			}
		}
		switch err := s.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(Line{Number: n + 1}, fmt.Errorf("line %d: longer than %d bytes", n+1, longest))
		case err != nil:
			yield(Line{Number: n + 1}, fmt.Errorf("line %d: %w", n+1, err))
		}
	}
}
