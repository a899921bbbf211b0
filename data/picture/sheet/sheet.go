package sheet

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"slices"
	"strings"

	"github.com/disintegration/imaging"
	"golang.org/x/image/font"
	"golang.org/x/image/math/fixed"
)

// Draw geometry, in pixels.
const (
	minCell  = 96 // smaller images are enlarged by the whole factor that reaches this
	gap      = 4
	margin   = 10
	titleGap = 8
)

var (
	paper     = color.NRGBA{255, 255, 255, 255}
	ink       = color.NRGBA{32, 32, 32, 255}
	cellFrame = color.NRGBA{222, 222, 222, 255}
)

// Draw shows images of one size with their labels, perRow to a row, on white
// under a title (which may be empty). Small images are enlarged by a whole
// factor with hard pixels, so what is judged is what the model made. When all
// images of a column share their label, the label stands once above the
// column; when all of a row do, once at its left; else under each image.
// Labels too wide for their place are cut with an ellipsis. Labels may be nil.
func Draw(images []image.Image, labels []string, perRow int, title string) (image.Image, error) {
	size, err := sameSize(images)
	if err != nil {
		return nil, err
	}
	l, err := newSheetLayout(size, len(images), labels, perRow, title)
	if err != nil {
		return nil, err
	}
	face, bold, place, cell, pitch, line := l.face, l.bold, l.place, l.cell, l.pitch, l.line
	perRow = l.perRow
	sheet := newCanvas(l.size.X, l.size.Y, paper)
	if title != "" {
		baseline := margin + bold.Metrics().Ascent.Ceil()
		drawText(sheet, bold, ink, fit(bold, title, l.size.X-2*margin), margin, baseline)
	}

	for i, img := range images {
		at := l.origin.Add(image.Pt(i%perRow*pitch.X, i/perRow*pitch.Y))
		box := image.Rectangle{at, at.Add(cell)}
		// A hairline keeps images with a white border apart from the paper.
		draw.Draw(sheet, box.Inset(-1), image.NewUniform(cellFrame), image.Point{}, draw.Src)
		if cell != size {
			img = imaging.Resize(img, cell.X, cell.Y, imaging.NearestNeighbor)
		}
		draw.Draw(sheet, box, img, img.Bounds().Min, draw.Src)
		switch {
		case place == underEach:
			drawCentred(sheet, face, labels[i], at.X, cell.X, box.Max.Y+gap/2+face.Metrics().Ascent.Ceil())
		case place == aboveColumns && i < perRow:
			drawCentred(sheet, face, labels[i], at.X, cell.X, l.titleBottom+face.Metrics().Ascent.Ceil())
		case place == leftOfRows && i%perRow == 0:
			lines := wrap(face, labels[i], l.rowLabelWidth, max(1, cell.Y/line))
			baseline := at.Y + (cell.Y+face.Metrics().CapHeight.Ceil()-(len(lines)-1)*line)/2
			for k, text := range lines {
				drawText(sheet, face, ink, text, l.origin.X-2*gap-font.MeasureString(face, text).Ceil(),
					baseline+k*line)
			}
		}
	}
	return sheet, nil
}

// MaxSide is the most pixels a side of a picture that other programs open.
const MaxSide = 65535

// Check returns an error where [Draw] of n images of a size would be larger than MaxSide.
func Check(size image.Point, n int, labels []string, perRow int) error {
	for _, labels := range [][]string{nil, labels} { // without labels first: to measure millions takes a while
		l, err := newSheetLayout(size, n, labels, perRow, "")
		if err != nil {
			return err
		}
		if err := checkSide(n, l.size); err != nil {
			return err
		}
	}
	return nil
}

// CheckGrid is Check for [Grid].
func CheckGrid(size image.Point, n, perRow, padding int) error {
	if n == 1 {
		return nil
	}
	return checkSide(n, gridSize(size, n, perRow, padding))
}

func checkSide(n int, size image.Point) error {
	if size.X > MaxSide || size.Y > MaxSide {
		return fmt.Errorf("%d images make a sheet of %dx%d pixels: want at most %d a side", n, size.X, size.Y, MaxSide)
	}
	return nil
}

// A sheetLayout says where everything is on a sheet.
type sheetLayout struct {
	perRow        int
	size          image.Point // of the sheet
	cell          image.Point // size of an image on it
	origin, pitch image.Point // of the first cell, from cell to cell
	place         labelPlace
	titleBottom   int
	rowLabelWidth int
	line          int // height of a line of a label
	face, bold    font.Face
}

func newSheetLayout(size image.Point, n int, labels []string, perRow int, title string) (l sheetLayout, err error) {
	l.perRow = min(max(perRow, 1), n)
	rows := (n + l.perRow - 1) / l.perRow
	l.cell = size.Mul(max(1, (minCell+min(size.X, size.Y)-1)/min(size.X, size.Y)))
	if l.face, err = newFace(13); err != nil {
		return l, err
	}
	if l.bold, err = newBoldFace(15); err != nil {
		return l, err
	}
	l.place = placeLabels(labels, n, l.perRow)
	l.line = l.face.Metrics().Height.Ceil()

	l.origin = image.Pt(margin, margin)
	l.pitch = l.cell.Add(image.Pt(gap, gap))
	if title != "" {
		l.origin.Y += l.bold.Metrics().Height.Ceil() + titleGap
	}
	l.titleBottom = l.origin.Y
	switch l.place {
	case aboveColumns:
		l.origin.Y += l.line + gap
	case leftOfRows:
		for i := 0; i < len(labels); i += l.perRow {
			l.rowLabelWidth = max(l.rowLabelWidth, font.MeasureString(l.face, labels[i]).Ceil())
		}
		l.rowLabelWidth = min(l.rowLabelWidth, 200)
		l.origin.X += l.rowLabelWidth + 2*gap
	case underEach:
		l.pitch.Y += l.line + gap
	}
	l.size.X = l.origin.X + l.perRow*l.pitch.X - gap + margin
	l.size.Y = l.origin.Y + rows*l.pitch.Y - gap + margin
	if title != "" {
		// A title wider than a sheet of one or two images widens the sheet.
		l.size.X = max(l.size.X, font.MeasureString(l.bold, title).Ceil()+2*margin)
		l.size.X = min(l.size.X, 4*l.pitch.X*l.perRow+1000)
	}
	return l, nil
}

type labelPlace int

const (
	nowhere labelPlace = iota
	aboveColumns
	leftOfRows
	underEach
)

// placeLabels finds where the labels of n images need to stand.
func placeLabels(labels []string, n, perRow int) labelPlace {
	if len(labels) != n || !slices.ContainsFunc(labels, func(l string) bool { return l != "" }) {
		return nowhere
	}
	byColumn, byRow := true, true
	for i, l := range labels {
		byColumn = byColumn && l == labels[i%perRow]
		byRow = byRow && l == labels[i-i%perRow]
	}
	switch {
	case byColumn:
		return aboveColumns
	case byRow:
		return leftOfRows
	}
	return underEach
}

// wrap breaks text between words into at most n lines of at most width pixels; what has no room is cut.
func wrap(face font.Face, text string, width, n int) (lines []string) {
	words := strings.Fields(text)
	for len(words) > 0 {
		used := 1
		for used < len(words) && font.MeasureString(face, strings.Join(words[:used+1], " ")) <= fixed.I(width) {
			used++
		}
		if len(lines) == n-1 {
			used = len(words)
		}
		lines = append(lines, fit(face, strings.Join(words[:used], " "), width))
		words = words[used:]
	}
	return lines
}

// fit shortens text until it is at most width pixels wide.
func fit(face font.Face, text string, width int) string {
	limit := fixed.I(width)
	if font.MeasureString(face, text) <= limit {
		return text
	}
	runes := []rune(text)
	for len(runes) > 1 {
		runes = runes[:len(runes)-1]
		if s := string(runes) + "\u2026"; font.MeasureString(face, s) <= limit {
			return s
		}
	}
	return string(runes)
}

func drawCentred(dst draw.Image, face font.Face, text string, x, width, baseline int) {
	text = fit(face, text, width)
	drawText(dst, face, ink, text, x+(width-font.MeasureString(face, text).Ceil())/2, baseline)
}

func drawText(dst draw.Image, face font.Face, c color.Color, text string, x, baseline int) {
	d := font.Drawer{Dst: dst, Src: image.NewUniform(c), Face: face, Dot: fixed.P(x, baseline)}
	d.DrawString(text)
}
