package bpe

import (
	"slices"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Ids depend on tables of Unicode. The original's parts have three versions of them: 9 for NFC, 16 for
// letters and numbers, 17 for lower case. Go 1.26 has version 15 of all. The tables here make up the
// difference; a test holds every code point to the original.

type class int

const (
	other class = iota
	letter
	number
)

func classOf(r rune) class {
	switch {
	case r < utf8.RuneSelf:
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return letter
		}
		if '0' <= r && r <= '9' {
			return number
		}
		return other
	case unicode.IsLetter(r) || unicode.Is(newLetters, r):
		return letter
	case unicode.IsNumber(r) || unicode.Is(newNumbers, r):
		return number
	}
	return other
}

// isSpace is Unicode's property White_Space. (Python's \s has U+001C to U+001F besides.)
func isSpace(r rune) bool { return unicode.IsSpace(r) }

// newLetters are the letters that came with Unicode 15.1 and 16.
var newLetters = &unicode.RangeTable{
	R16: []unicode.Range16{{0x1c89, 0x1c8a, 1}, {0xa7cb, 0xa7cd, 1}, {0xa7da, 0xa7dc, 1}},
	R32: []unicode.Range32{
		{0x105c0, 0x105f3, 1}, {0x10d4a, 0x10d65, 1}, {0x10d6f, 0x10d85, 1}, {0x10ec2, 0x10ec4, 1},
		{0x11380, 0x11389, 1},
		{0x1138b, 0x1138b, 1}, {0x1138e, 0x1138e, 1}, {0x11390, 0x113b5, 1}, {0x113b7, 0x113b7, 1},
		{0x113d1, 0x113d1, 1}, {0x113d3, 0x113d3, 1},
		{0x11bc0, 0x11be0, 1}, {0x13460, 0x143fa, 1}, {0x16100, 0x1611d, 1}, {0x16d40, 0x16d6c, 1},
		{0x18cff, 0x18cff, 1},
		{0x1e5d0, 0x1e5ed, 1}, {0x1e5f0, 0x1e5f0, 1}, {0x2ebf0, 0x2ee5d, 1},
	},
}

// newNumbers are the numbers that came with Unicode 16.
var newNumbers = &unicode.RangeTable{R32: []unicode.Range32{
	{0x10d40, 0x10d49, 1}, {0x116d0, 0x116e3, 1}, {0x11bf0, 0x11bf9, 1}, {0x16130, 0x16139, 1}, {0x16d70, 0x16d79, 1},
	{0x1ccf0, 0x1ccf9, 1}, {0x1e5f1, 0x1e5fa, 1},
}}

// newMarks take part in normalisation since Unicode 10 or later: the original leaves them where they are.
var newMarks = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x07fd, 0x07fd, 1}, {0x0898, 0x089f, 1}, {0x08ca, 0x08d3, 1}, {0x09fe, 0x09fe, 1}, {0x0c3c, 0x0c3c, 1},
		{0x0d3b, 0x0d3c, 1},
		{0x0eba, 0x0eba, 1}, {0x1715, 0x1715, 1}, {0x1abf, 0x1ace, 1}, {0x1df6, 0x1dfa, 1}, {0xa82c, 0xa82c, 1},
	},
	R32: []unicode.Range32{
		{0x10d24, 0x10d27, 1}, {0x10eab, 0x10eac, 1}, {0x10efd, 0x10eff, 1}, {0x10f46, 0x10f50, 1},
		{0x10f82, 0x10f85, 1}, {0x11070, 0x11070, 1},
		{0x1133b, 0x1133b, 1}, {0x1145e, 0x1145e, 1}, {0x11839, 0x1183a, 1}, {0x11930, 0x11930, 1},
		{0x11938, 0x11938, 1}, {0x1193d, 0x1193e, 1}, {0x11943, 0x11943, 1},
		{0x119e0, 0x119e0, 1}, {0x11a34, 0x11a34, 1}, {0x11a47, 0x11a47, 1}, {0x11a99, 0x11a99, 1},
		{0x11d42, 0x11d42, 1}, {0x11d44, 0x11d45, 1}, {0x11d97, 0x11d97, 1},
		{0x11f41, 0x11f42, 1}, {0x16ff0, 0x16ff1, 1}, {0x1e08f, 0x1e08f, 1}, {0x1e130, 0x1e136, 1},
		{0x1e2ae, 0x1e2ae, 1}, {0x1e2ec, 0x1e2ef, 1}, {0x1e4ec, 0x1e4ef, 1},
	},
}

// lower appends the lower case of r. U+0130 is the one character that has two.
func lower(out []rune, r rune) []rune {
	switch {
	case r == 0x130:
		return append(out, 'i', 0x307)
	// to the end new in Unicode 16 and 17
	case r == 0x1c89, r == 0xa7cc, r == 0xa7ce, r == 0xa7d2, r == 0xa7d4, r == 0xa7da:
		return append(out, r+1)
	case r == 0xa7cb:
		return append(out, 0x264)
	case r == 0xa7dc:
		return append(out, 0x19b)
	case 0x10d50 <= r && r <= 0x10d65:
		return append(out, r+0x20)
	case 0x16ea0 <= r && r <= 0x16eb8:
		return append(out, r+0x1b)
	}
	return append(out, unicode.ToLower(r))
}

// normalize returns the lower case of s in the form NFC.
func normalize(s string) string {
	ascii := true
	for i := range len(s) {
		ascii = ascii && s[i] < utf8.RuneSelf
	}
	var out []rune
	if ascii {
		out = []rune(s)
	} else {
		out = nfc(s)
	}
	lowered := make([]rune, 0, len(out))
	for _, r := range out {
		lowered = lower(lowered, r)
	}
	return string(lowered)
}

// nfc is the canonical composition of the Unicode standard (annex 15). Package norm supplies the data but not
// the whole: it splits runs of more than 30 marks, which the original does not.
func nfc(s string) []rune {
	var text []rune
	var classes []uint8 // canonical combining classes of text
	for _, r := range s {
		if unicode.Is(newMarks, r) {
			text, classes = append(text, r), append(classes, 0)
			continue
		}
		for _, d := range norm.NFD.String(string(r)) {
			text, classes = append(text, d), append(classes, norm.NFD.PropertiesString(string(d)).CCC())
		}
	}
	// Marks that follow a character are sorted by class.
	for i := 0; i < len(text); i++ {
		from := i
		for i < len(text) && classes[i] > 0 {
			i++
		}
		if i-from > 1 {
			sortMarks(text[from:i], classes[from:i])
		}
	}
	// Each character joins with the last one of class zero, unless something of its class or a higher one is
	// between them.
	var out []rune
	starter, before := -1, -1 // index in out, and the class of the last mark in out; -1 right after the starter
	for i, r := range text {
		class := int(classes[i])
		if starter >= 0 && before < class {
			if c, ok := compose(out[starter], r); ok {
				out[starter] = c
				continue
			}
		}
		out = append(out, r)
		if class == 0 {
			starter, before = len(out)-1, -1
		} else {
			before = class
		}
	}
	return out
}

func sortMarks(marks []rune, classes []uint8) {
	order := make([]int, len(marks))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(classes[a]) - int(classes[b]) })
	m, c := slices.Clone(marks), slices.Clone(classes)
	for i, from := range order {
		marks[i], classes[i] = m[from], c[from]
	}
}

// compose returns the character that a and b make.
func compose(a, b rune) (rune, bool) {
	if a < utf8.RuneSelf && b < utf8.RuneSelf || unicode.Is(newMarks, a) || unicode.Is(newMarks, b) {
		return 0, false
	}
	both := norm.NFC.String(string([]rune{a, b}))
	r, size := utf8.DecodeRuneInString(both)
	return r, size == len(both)
}
