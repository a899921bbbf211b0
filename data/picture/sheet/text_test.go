package sheet

import (
	"bytes"
	"image"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-text/typesetting/di"
	"github.com/go-text/typesetting/shaping"
)

func typesetterOf(t *testing.T, fonts *Fonts) *typesetter {
	t.Helper()
	s, err := newTypesetter(fonts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// cut says whether a line ends with an ellipsis.
func cut(s *typesetter, l textLine) bool {
	glyph, _ := s.text.face.NominalGlyph('\u2026')
	return slices.ContainsFunc(l.runs, func(r shaping.Output) bool {
		return r.Face == s.text.face && len(r.Glyphs) == 1 && r.Glyphs[0].GlyphID == glyph
	})
}

// TestLines: words are broken between words, and cut at the end where they have no room, never at a comma.
func TestLines(t *testing.T) {
	s := typesetterOf(t, GoFonts())
	const text = "a photo of an ankle boot on a white background, seen from the left"
	lines := func(text string, width, n int) []textLine {
		t.Helper()
		list, ok := s.lines(text, s.text, width, n)
		if !ok {
			t.Fatalf("%q cannot be written", text)
		}
		for _, l := range list {
			if l.width > width {
				t.Errorf("%q in %d pixels: a line of %d", text, width, l.width)
			}
		}
		return list
	}
	width := lines("a photo of an ankle boot", 1000, 1)[0].width
	if got := lines(text, width, 9); len(got) != 3 || got[0].width != width || cut(s, got[2]) {
		t.Errorf("%d lines, the first of %d pixels, want 3, %d", len(got), got[0].width, width)
	}
	if got := lines(text, width, 2); len(got) != 2 || cut(s, got[0]) || !cut(s, got[1]) {
		t.Errorf("two lines: %d", len(got))
	}
	if got := lines(strings.Repeat("a", 100), width, 1); len(got) != 1 || !cut(s, got[0]) {
		t.Errorf("one long word: %d lines", len(got))
	}
	if got := lines("", width, 3); len(got) != 0 {
		t.Errorf("no words: %d lines", len(got))
	}
	if got := lines("Bag", 96, 1); len(got) != 1 || cut(s, got[0]) {
		t.Error("a short word is cut")
	}
	if got := lines("apples, red", 96, 1); len(got) != 1 || cut(s, got[0]) {
		t.Error("a name is cut at its comma")
	}
	// What does not show is made visible: the same text is drawn for both.
	if a, b := drawn(t, GoFonts(), Label{Text: "a\nb\u202e"}),
		drawn(t, GoFonts(), Label{Text: `a\nb\u202e`}); !bytes.Equal(a, b) {
		t.Error("control characters do not show")
	}
	// Both Unicode forms of a letter are one.
	if a, b := drawn(t, GoFonts(), Label{Text: "\u00e4"}),
		drawn(t, GoFonts(), Label{Text: "a\u0308"}); !bytes.Equal(a, b) {
		t.Error("a letter looks different in another Unicode form")
	}
}

// drawn are the pixels of a sheet of one picture with a label.
func drawn(t *testing.T, fonts *Fonts, l Label) []byte {
	t.Helper()
	img, err := Draw([]image.Image{disc(32, 3, 3)}, Options{Labels: []Label{l}, Fonts: fonts})
	if err != nil {
		t.Fatal(err)
	}
	return img.(*image.RGBA).Pix
}

// inScripts are words that the Go fonts cannot write.
var inScripts = map[string]string{
	"Chinese": "\u91d1\u6bdb\u730e\u72ac", "Japanese": "\u67f4\u72ac\u306e\u5199\u771f", "Korean": "\uac15\uc544\uc9c0",
	"Arabic": "\u0643\u0644\u0628 \u0635\u063a\u064a\u0631", "Hebrew": "\u05db\u05dc\u05d1",
	"Devanagari": "\u0915\u0941\u0924\u094d\u0924\u093e", "emoji": "\U0001f415",
	"mixed": "dog \u72ac 7",
}

// TestNumberForMissingLetters: where no font has the letters of a name, its number is written, and never boxes.
func TestNumberForMissingLetters(t *testing.T) {
	number := drawn(t, GoFonts(), Label{Text: "17"})
	for script, text := range inScripts {
		if !bytes.Equal(drawn(t, GoFonts(), Label{Text: text, Else: "17"}), number) {
			t.Errorf("%s is not replaced by the number", script)
		}
	}
	for _, text := range []string{"\u0421\u043e\u0431\u0430\u043a\u0430", "\u03a3\u03ba\u03cd\u03bb\u03bf\u03c2",
		"Stra\u00dfenh\u00fcndchen, s\u00fc\u00df"} {
		if bytes.Equal(drawn(t, GoFonts(), Label{Text: text, Else: "17"}), number) {
			t.Errorf("%s is replaced by the number, though the Go fonts have its letters", text)
		}
	}
}

// fontWith is a font of this machine that has the letters of a text; the test is skipped without one.
func fontWith(t *testing.T, text string) *Fonts {
	t.Helper()
	for _, f := range systemFonts() {
		if strings.ContainsFunc(text, func(r rune) bool { return !blank(r) && !f.covers(r) }) {
			continue
		}
		fonts := fontsOf([]*fontFile{f})
		s := typesetterOf(t, fonts)
		if _, ok := s.lines(text, s.text, 1000, 1); ok {
			return fonts
		}
	}
	t.Skip("no font on this machine writes " + text)
	return nil
}

// TestSystemFonts: with a font for it a name is written in its script, the same on every run, from right to left
// where it is read so.
func TestSystemFonts(t *testing.T) {
	number := drawn(t, GoFonts(), Label{Text: "17"})
	for script, text := range inScripts {
		t.Run(script, func(t *testing.T) {
			fonts := fontWith(t, text)
			a, b := drawn(t, fonts, Label{Text: text, Else: "17"}),
				drawn(t, SystemFonts(), Label{Text: text, Else: "17"})
			if bytes.Equal(a, number) || !bytes.Equal(b, drawn(t, SystemFonts(), Label{Text: text, Else: "17"})) {
				t.Error("the number is written, or another picture each time")
			}
			s := typesetterOf(t, fonts)
			lines, ok := s.lines(text, s.text, 1000, 1)
			if !ok || len(lines) != 1 {
				t.Fatalf("%d lines, %v", len(lines), ok)
			}
			right := lines[0].runs[0].Direction == di.DirectionRTL
			if want := script == "Arabic" || script == "Hebrew"; right != want {
				t.Errorf("written from right to left: %v", right)
			}
			for _, run := range lines[0].runs {
				for _, g := range run.Glyphs {
					if g.GlyphID == 0 {
						t.Error("a box is drawn")
					}
				}
			}
			short, _ := s.lines(strings.Repeat(text+" ", 9), s.text, 96, 1)
			if len(short) != 1 || short[0].width > 96 || !cut(s, short[0]) {
				t.Errorf("a long text is not cut: %+v", short)
			}
		})
	}
}

// TestUnreadableFonts: files that are no fonts, or are not there, are passed over.
func TestUnreadableFonts(t *testing.T) {
	path := t.TempDir() + "/x.ttf"
	if err := os.WriteFile(path, []byte("no font"), 0o666); err != nil {
		t.Fatal(err)
	}
	// An index that promises what the file does not hold.
	promise := func(rune) bool { return true }
	fonts := fontsOf([]*fontFile{newFontFile(path, 0, promise), newFontFile("nowhere.ttf", 0, promise)})
	if !bytes.Equal(drawn(t, fonts, Label{Text: inScripts["Chinese"], Else: "17"}),
		drawn(t, GoFonts(), Label{Text: "17"})) {
		t.Error("a font that cannot be read is used")
	}
}

// TestOrder: words of both directions, and numbers between them, stand as Unicode's annex 9 has them.
func TestOrder(t *testing.T) {
	const aleph, bet = "\u05d0\u05d0", "\u05d1\u05d1\u05d1"
	fonts := fontWith(t, aleph+bet)
	for text, want := range map[string]string{ // words with the directions that they have on their own, left to right
		aleph + " 12 " + bet: bet + "| |12|" + aleph + " ",
		aleph + " dog":       "dog|" + aleph + " ",
		"dog " + aleph:       "dog |" + aleph,
	} {
		s := typesetterOf(t, fonts)
		lines, ok := s.lines(text, s.text, 1000, 1)
		if !ok || len(lines) != 1 {
			t.Fatalf("%q: %d lines", text, len(lines))
		}
		var got []string
		for _, r := range lines[0].runs {
			got = append(got, string([]rune(text)[r.Runes.Offset:r.Runes.Offset+r.Runes.Count]))
		}
		if got := strings.Join(got, "|"); got != want {
			t.Errorf("%q is written %q, want %q", text, got, want)
		}
	}
	s := typesetterOf(t, fonts)
	if _, ok := s.lines("dog "+aleph+" 12 cat", s.text, 1000, 1); ok {
		t.Error("a number within words of the other direction is written, in the wrong place")
	}
}
