package disk

import (
	"bufio"
	"bytes"
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

// PlainText returns the text of a file that people or programs wrote, without the byte order mark that some editors and
// spreadsheets put before it. UTF-16, which Windows calls Unicode and its shell writes for a > b, is an error.
func PlainText(text []byte) ([]byte, error) {
	if err := checkUTF16(text); err != nil {
		return nil, err
	}
	return bytes.TrimPrefix(text, []byte(byteOrderMark)), nil
}

// checkUTF16 returns an error if text begins as UTF-16 does: with its mark, or with a letter of two bytes, one of
// them 0.
func checkUTF16[T []byte | string](text T) error {
	if len(text) < 2 {
		return nil
	}
	a, b := text[0], text[1]
	if a == 0xff && b == 0xfe || a == 0xfe && b == 0xff || (a == 0) != (b == 0) {
		return errUTF16
	}
	return nil
}

var errUTF16 = errors.New("text in UTF-16: want UTF-8: save it again with that encoding")

// Lines yields the lines of a text file that people or programs wrote, of at most longest bytes each: ended by LF
// or CRLF, and of [PlainText]. An error, which names the line where that matters, is the last that it yields.
func Lines(in io.Reader, longest int) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		s := bufio.NewScanner(in)
		s.Buffer(make([]byte, min(longest, 1<<16)), longest+2) // and its end
		n := 0
		for s.Scan() {
			n++
			text := s.Text()
			if n == 1 {
				if err := checkUTF16(text); err != nil {
					yield(Line{Number: n}, err)
					return
				}
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
