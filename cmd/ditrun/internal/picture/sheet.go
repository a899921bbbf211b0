package picture

import (
	"image"
	"image/color"
	"image/draw"
	"slices"
	"strings"

	"github.com/disintegration/imaging"
	"golang.org/x/image/font"
	"golang.org/x/image/math/fixed"
)

// Sheet geometry, in pixels.
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

// Sheet shows images of one size with their labels, perRow to a row, on white
// under a title (which may be empty). Small images are enlarged by a whole
// factor with hard pixels, so what is judged is what the model made. When all
// images of a column share their label, the label stands once above the
// column; when all of a row do, once at its left; else under each image.
// Labels too wide for their place are cut with an ellipsis. Labels may be nil.
func Sheet(images []image.Image, labels []string, perRow int, title string) (image.Image, error) {
	size, err := sameSize(images)
	if err != nil {
		return nil, err
	}
	perRow = min(max(perRow, 1), len(images))
	rows := (len(images) + perRow - 1) / perRow
	factor := max(1, (minCell+min(size.X, size.Y)-1)/min(size.X, size.Y))
	cell := size.Mul(factor)

	face, err := newFace(13)
	if err != nil {
		return nil, err
	}
	bold, err := newBoldFace(15)
	if err != nil {
		return nil, err
	}
	place := placeLabels(labels, len(images), perRow)
	line := face.Metrics().Height.Ceil()

	// Where the cells start, and how far apart they are.
	origin := image.Pt(margin, margin)
	pitch := cell.Add(image.Pt(gap, gap))
	if title != "" {
		origin.Y += bold.Metrics().Height.Ceil() + titleGap
	}
	titleBottom := origin.Y
	rowLabelWidth := 0
	switch place {
	case aboveColumns:
		origin.Y += line + gap
	case leftOfRows:
		for _, l := range labels {
			rowLabelWidth = max(rowLabelWidth, font.MeasureString(face, l).Ceil())
		}
		rowLabelWidth = min(rowLabelWidth, 200)
		origin.X += rowLabelWidth + 2*gap
	case underEach:
		pitch.Y += line + gap
	}
	width := origin.X + perRow*pitch.X - gap + margin
	height := origin.Y + rows*pitch.Y - gap + margin
	if title != "" {
		// A title wider than a sheet of one or two images widens the sheet.
		width = max(width, font.MeasureString(bold, title).Ceil()+2*margin)
		width = min(width, 4*pitch.X*perRow+1000)
	}
	sheet := newCanvas(width, height, paper)
	if title != "" {
		baseline := margin + bold.Metrics().Ascent.Ceil()
		drawText(sheet, bold, ink, fit(bold, title, width-2*margin), margin, baseline)
	}

	for i, img := range images {
		at := origin.Add(image.Pt(i%perRow*pitch.X, i/perRow*pitch.Y))
		box := image.Rectangle{at, at.Add(cell)}
		// A hairline keeps images with a white border apart from the paper.
		draw.Draw(sheet, box.Inset(-1), image.NewUniform(cellFrame), image.Point{}, draw.Src)
		if factor > 1 {
			img = imaging.Resize(img, cell.X, cell.Y, imaging.NearestNeighbor)
		}
		draw.Draw(sheet, box, img, img.Bounds().Min, draw.Src)
		switch {
		case place == underEach:
			drawCentred(sheet, face, labels[i], at.X, cell.X, box.Max.Y+gap/2+face.Metrics().Ascent.Ceil())
		case place == aboveColumns && i < perRow:
			drawCentred(sheet, face, labels[i], at.X, cell.X, titleBottom+face.Metrics().Ascent.Ceil())
		case place == leftOfRows && i%perRow == 0:
			lines := wrap(face, labels[i], rowLabelWidth, max(1, cell.Y/line))
			baseline := at.Y + (cell.Y+face.Metrics().CapHeight.Ceil()-(len(lines)-1)*line)/2
			for k, text := range lines {
				drawText(sheet, face, ink, text, origin.X-2*gap-font.MeasureString(face, text).Ceil(), baseline+k*line)
			}
		}
	}
	return sheet, nil
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
