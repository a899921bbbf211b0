package sheet

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"slices"
	"unicode"

	"github.com/go-text/typesetting/di"
	"github.com/go-text/typesetting/font"
	"github.com/go-text/typesetting/font/opentype"
	"github.com/go-text/typesetting/language"
	"github.com/go-text/typesetting/shaping"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
	"golang.org/x/text/unicode/bidi"

	"github.com/ditrun/ditrun/internal/names"
)

// A typesetter makes lines of words.
type typesetter struct {
	fonts     *Fonts
	shaper    shaping.HarfbuzzShaper
	segmenter shaping.Segmenter
	wrapper   shaping.LineWrapper
	text      style
	heading   style
	faces     map[*fontFile]*font.Face // opened; nil for a font that cannot be
	inUse     []*fontFile              // in the order of their first use
}

// A style is a Go font at a size in pixels.
type style struct {
	face                   *font.Face
	size                   fixed.Int26_6
	ascent, capitals, line int // pixels above the baseline, of a capital, from line to line
}

func newTypesetter(fonts *Fonts) (*typesetter, error) {
	if fonts == nil {
		fonts = SystemFonts()
	}
	t := &typesetter{fonts: fonts, faces: map[*fontFile]*font.Face{}}
	var err error
	if t.text, err = newStyle(goregular.TTF, 13); err != nil {
		return nil, err
	}
	t.heading, err = newStyle(gobold.TTF, 15)
	return t, err
}

func newStyle(ttf []byte, pixels int) (style, error) {
	face, err := font.ParseTTF(bytes.NewReader(ttf))
	if err != nil {
		return style{}, fmt.Errorf("sheet: font: %w", err)
	}
	extents, _ := face.FontHExtents() // of the Go fonts, which have them
	scale := float32(pixels) / float32(face.Upem())
	ceil := func(units float32) int { return fixed.Int26_6(units * scale * 64).Ceil() }
	return style{face, fixed.I(pixels), ceil(extents.Ascender), ceil(face.LineMetric(font.CapHeight)),
		ceil(extents.Ascender - extents.Descender + extents.LineGap)}, nil
}

// A textLine is a line of words, ready to be drawn.
type textLine struct {
	runs  []shaping.Output // from left to right
	size  fixed.Int26_6
	width int
}

// lines breaks text into at most n lines of at most width pixels; what has no room is cut, with an ellipsis in its
// place. Ok is false where the fonts cannot write it.
func (t *typesetter) lines(text string, s style, width, n int) (lines []textLine, ok bool) {
	// Joiners, which do not show, choose between forms of letters.
	runes := []rune(names.Visible(names.Canonical(text), "\u200c\u200d"))
	if len(runes) == 0 {
		return nil, true
	}
	direction := directionOf(runes)
	whole := shaping.Input{Text: runes, RunEnd: len(runes), Direction: direction, Face: s.face, Size: s.size,
		Language: "en"}
	faces, ok := t.resolve(runes, s.face)
	if !ok {
		return nil, false
	}
	var runs []shaping.Output
	for _, part := range t.segmenter.Split(whole, faces) {
		// Such a number belongs to the words before it, whose order the library does not keep.
		number := direction == di.DirectionLTR && len(runs) > 0 && runs[len(runs)-1].Direction != direction &&
			part.Direction == direction && classOf(runes[part.RunStart]) != bidi.L
		run := t.shaper.Shape(part)
		if number || !drawable(run, runes) {
			return nil, false
		}
		runs = append(runs, run)
	}
	dots := []rune("\u2026")
	config := shaping.WrapConfig{Direction: direction, TruncateAfterLines: n}.WithTruncator(&t.shaper,
		shaping.Input{Text: dots, RunEnd: len(dots), Direction: direction, Face: s.face, Size: s.size,
			Script: language.Common, Language: "en"})
	wrapped, _ := t.wrapper.WrapParagraph(config, width, runes, shaping.NewSliceIterator(runs))
	for _, w := range wrapped {
		line := textLine{size: s.size}
		var advance fixed.Int26_6
		for _, run := range w {
			run.Glyphs = slices.Clone(run.Glyphs) // they are the wrapper's
			line.runs = append(line.runs, run)
			advance += run.Advance
		}
		slices.SortFunc(line.runs, func(a, b shaping.Output) int { return cmp.Compare(a.VisualIndex, b.VisualIndex) })
		line.width = advance.Ceil()
		lines = append(lines, line)
	}
	return lines, true
}

// directionOf is the direction of the first letter that has one.
func directionOf(text []rune) di.Direction {
	for _, r := range text {
		switch classOf(r) {
		case bidi.L:
			return di.DirectionLTR
		case bidi.R, bidi.AL:
			return di.DirectionRTL
		}
	}
	return di.DirectionLTR
}

// classOf is how a character takes part in the order of text.
func classOf(r rune) bidi.Class {
	p, _ := bidi.LookupRune(r)
	return p.Class()
}

// faceList has the first face that has a letter.
type faceList []*font.Face

func (l faceList) ResolveFace(r rune) *font.Face {
	for _, f := range l {
		if has(f, r) {
			return f
		}
	}
	return l[0]
}

// resolve finds faces that together can write text: the first, and as few others as possible, best those that are in
// use.
func (t *typesetter) resolve(text []rune, first *font.Face) (faceList, bool) {
	list := faceList{first}
	missing := slices.DeleteFunc(slices.Clone(text), func(r rune) bool { return blank(r) || has(first, r) })
	for len(missing) > 0 {
		face := t.mostOf(missing)
		if face == nil {
			return nil, false
		}
		list = append(list, face)
		missing = slices.DeleteFunc(missing, func(r rune) bool { return has(face, r) })
	}
	return list, true
}

// mostOf finds the face that has most of these letters, of those in use the first that has all; nil where none has any.
func (t *typesetter) mostOf(letters []rune) *font.Face {
	for _, f := range t.inUse {
		if face := t.face(f); !slices.ContainsFunc(letters, func(r rune) bool { return !has(face, r) }) {
			return face
		}
	}
	type candidate struct {
		file *fontFile
		n    int
	}
	var list []candidate
	for _, f := range t.fonts.others() {
		n := 0
		for _, r := range letters {
			if f.covers(r) {
				n++
			}
		}
		if n > 0 {
			list = append(list, candidate{f, n})
		}
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return cmp.Compare(b.n, a.n) })
	for _, c := range list {
		face := t.face(c.file)
		if face == nil || !slices.ContainsFunc(letters, func(r rune) bool { return has(face, r) }) {
			continue
		}
		if !slices.Contains(t.inUse, c.file) {
			t.inUse = append(t.inUse, c.file)
		}
		return face
	}
	return nil
}

func (t *typesetter) face(f *fontFile) *font.Face {
	face, known := t.faces[f]
	if !known {
		if opened, err := f.open(); err == nil {
			face = font.NewFace(opened)
		}
		t.faces[f] = face
	}
	return face
}

// has says whether a face can write a letter: it has an outline, as the pictures of emoji fonts have not, and what the
// script needs.
func has(f *font.Face, r rune) bool {
	glyph, ok := f.NominalGlyph(r)
	if !ok || !shapes(f.Font, language.LookupScript(r)) {
		return false
	}
	outline, ok := f.GlyphDataOutline(glyph)
	return ok && (len(outline.Segments) > 0 || blank(r))
}

// blank says whether a character has nothing to show.
func blank(r rune) bool {
	return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Variation_Selector, r)
}

// drawable says whether all of a run has a shape. Glyph 0 is the box that stands for a letter that is not there.
func drawable(run shaping.Output, text []rune) bool {
	return !slices.ContainsFunc(run.Glyphs, func(g shaping.Glyph) bool {
		return g.GlyphID == 0 && !blank(text[g.TextIndex()])
	})
}

// draw writes the line from x on, on a baseline.
func (l textLine) draw(dst draw.Image, c color.Color, x, baseline int) {
	// Letters may reach beyond their width, and above and below the usual.
	pad, height := l.size.Ceil(), 3*l.size.Ceil()
	above := 2 * l.size.Ceil()
	r := vector.NewRasterizer(l.width+2*pad, height)
	dot := float32(pad)
	for _, run := range l.runs {
		scale := pixels(run.Size) / float32(run.Face.Upem())
		for _, g := range run.Glyphs {
			if outline, ok := run.Face.GlyphDataOutline(g.GlyphID); ok {
				addOutline(r, outline, scale, dot+pixels(g.XOffset), float32(above)-pixels(g.YOffset))
			}
			dot += pixels(g.Advance)
		}
	}
	mask := image.NewAlpha(r.Bounds())
	r.DrawOp = draw.Src
	r.Draw(mask, mask.Rect, image.Opaque, image.Point{})
	at := image.Pt(x-pad, baseline-above)
	draw.DrawMask(dst, mask.Rect.Add(at), image.NewUniform(c), image.Point{}, mask, image.Point{}, draw.Over)
}

func pixels(v fixed.Int26_6) float32 { return float32(v) / 64 }

// addOutline adds a glyph, whose y axis goes up, with its origin at x, y.
func addOutline(r *vector.Rasterizer, outline font.GlyphOutline, scale, x, y float32) {
	for _, s := range outline.Segments {
		var p [3]struct{ x, y float32 }
		for i, a := range s.Args {
			p[i].x, p[i].y = x+scale*a.X, y-scale*a.Y
		}
		switch s.Op {
		case opentype.SegmentOpMoveTo:
			r.ClosePath()
			r.MoveTo(p[0].x, p[0].y)
		case opentype.SegmentOpLineTo:
			r.LineTo(p[0].x, p[0].y)
		case opentype.SegmentOpQuadTo:
			r.QuadTo(p[0].x, p[0].y, p[1].x, p[1].y)
		case opentype.SegmentOpCubeTo:
			r.CubeTo(p[0].x, p[0].y, p[1].x, p[1].y, p[2].x, p[2].y)
		}
	}
	r.ClosePath()
}
