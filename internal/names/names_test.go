package names

import (
	"testing"
	"unicode/utf8"
)

func TestEqual(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"cat", "cat", true},
		{"caf\u00e9", "cafe\u0301", true},
		{"\u00dcberschrift", "U\u0308berschrift", true},
		{"\ud55c", "\u1112\u1161\u11ab", true}, // Korean
		{"cat", "Cat", false},
		{"cafe", "caf\u00e9", false},
		{"\ufb01sh", "fish", false}, // a ligature is another name
		{"caf\xe9", "caf\xe8", false},
		{"caf\xe9", "caf\xe9", true},
	} {
		if got := Equal(tt.a, tt.b); got != tt.want {
			t.Errorf("Equal(%q, %q) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestText(t *testing.T) {
	for name, want := range map[string]string{
		"cat":             "cat",
		"caf\u00e9":       "caf\u00e9",
		"caf\xe9":         `caf\xe9`,
		"caf\xe8":         `caf\xe8`,
		`caf\xe9`:         `caf\x5cxe9`, // a folder of this very name
		`caf\x5cxe9`:      `caf\x5cx5cxe9`,
		`C:\xylophone`:    `C:\xylophone`,
		`a\b`:             `a\b`,
		"\xff\\xff\ufffd": "\\xff\\x5cxff\ufffd",
		"line\nend\t":     "line\nend\t",
		"":                "",
	} {
		if got := Text(name); got != want {
			t.Errorf("Text(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestGiven(t *testing.T) {
	for name, want := range map[string]string{"cat": "cat", `caf\xe9`: `caf\xe9`, "caf\xe9": `caf\xe9`} {
		if got := Given(name); got != want {
			t.Errorf("Given(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestPlural(t *testing.T) {
	for noun, want := range map[string][2]string{"picture": {"1 picture", "2 pictures"},
		"class": {"1 class", "2 classes"}, "batch": {"1 batch", "2 batches"}, "other": {"1 other", "2 others"}} {
		if one, two := Plural(1, noun), Plural(2, noun); one != want[0] || two != want[1] {
			t.Errorf("%q and %q, want %q", one, two, want)
		}
	}
	if got := Plural(0, "class"); got != "0 classes" {
		t.Errorf("none: %q", got)
	}
	if got, want := Few([]string{"a", "b", "c", "d"}), "a, b, c (and 1 other)"; got != want {
		t.Errorf("four names: %q, want %q", got, want)
	}
}

// No two names have one text.
func FuzzText(f *testing.F) {
	for _, pair := range [][2]string{{"caf\xe9", `caf\xe9`}, {"\xff", `\xff`}, {"\\\xff", `\\xff`}, {`\x5c`, "\\"},
		{"\\x\xff", `\x\xff`}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if !utf8.ValidString(Text(a)) {
			t.Errorf("Text(%q) = %q is not UTF-8", a, Text(a))
		}
		if a != b && Text(a) == Text(b) {
			t.Errorf("%q and %q are both written %q", a, b, Text(a))
		}
	})
}
