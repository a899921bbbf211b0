package format

import "testing"

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"golden retriever, 12 %":            "golden retriever, 12 %",
		"\u00e9t\u00e9 \u732b \u00a0\u263a": "\u00e9t\u00e9 \u732b \u00a0\u263a",
		"a\tb\nc":                           "a\tb\nc",
		"\x1b[31mRED\x1b]0;title\x07":       `\x1b[31mRED\x1b]0;title\x07`,
		"\u009b31m":                         `\u009b31m`,
		"\x9b31m\xff":                       `\x9b31m\xff`,
		"\u202egnp.exe \u2066\u200f\u061c":  `\u202egnp.exe \u2066\u200f\u061c`,
		"a\r\x7f\x00\u2028b\ufeff":          `a\r\x7f\x00\u2028b\ufeff`,
		"\U000e0041\ufffd":                  "\\U000e0041\ufffd",
	} {
		if got := Text(text); got != want {
			t.Errorf("Text(%q) = %q, want %q", text, got, want)
		}
	}
	if got, want := Line("b\nditrun: error: all is well\r\x1b"), `b\nditrun: error: all is well\r\x1b`; got != want {
		t.Errorf("Line gives %q, want %q", got, want)
	}
}
