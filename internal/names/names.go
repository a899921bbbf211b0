// Package names says when two names are the same, and how a name that is not text is written.
//
// Names of files, folders and classes come from file systems, archives, tables and command lines. Linux takes any bytes
// for a name, and the same word comes in two forms: macOS writes an accented letter as the letter and the accent
// (Unicode's normal form D), most others as one character (form C). Names are kept and sorted as they were found, so
// that numbers of classes do not change; what is compared are their canonical forms.
package names

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Canonical is the form by which names are compared: Unicode's normal form C. The case counts, and so do characters
// that only look alike.
func Canonical(name string) string { return norm.NFC.String(name) }

// Equal says whether two names are the same name.
func Equal(a, b string) bool { return a == b || Canonical(a) == Canonical(b) }

// Text writes a name as it was found, of any bytes, as text for the files and lines that hold text alone: a byte that
// is not UTF-8 becomes \xNN, as in caf\xe9. So that no two names become one, the backslash of a name that has such
// letters itself becomes \x5c. All other names, which are nearly all, stay what they are.
func Text(name string) string {
	if utf8.ValidString(name) && !strings.Contains(name, `\x`) {
		return name
	}
	var b strings.Builder
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError && n == 1 || looksEscaped(name) {
			fmt.Fprintf(&b, `\x%02x`, name[0])
		} else {
			b.WriteString(name[:n])
		}
		name = name[n:]
	}
	return b.String()
}

// looksEscaped says whether name begins with what Text writes for a byte.
func looksEscaped(name string) bool {
	const digits = "0123456789abcdef"
	return len(name) >= 4 && name[:2] == `\x` && strings.IndexByte(digits, name[2]) >= 0 &&
		strings.IndexByte(digits, name[3]) >= 0
}

// Given is the text of a name that a user or a file gives: text stands for itself, as it was shown, and other bytes are
// written as [Text] does.
func Given(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return Text(name)
}
