package names

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Visible makes text from files safe to print: control characters, the escape sequences of terminals, marks that turn
// the direction of writing and all else that does not show become what Go would write for it, such as \x1b or \u202e.
// The characters in keep stay.
func Visible(s, keep string) string {
	plain := func(r rune) bool { return unicode.IsGraphic(r) || strings.ContainsRune(keep, r) }
	hidden := func(r rune) bool { return r == utf8.RuneError || !plain(r) }
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1: // no UTF-8
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case plain(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 1<<16:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		s = s[n:]
	}
	return b.String()
}
