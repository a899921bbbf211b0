// Package sheet arranges pictures on one sheet, with words beside them and small ones enlarged, so that a person can
// judge them, and writes PNG files that say how they were made.
//
//	images, err := sheet.Batch(pix, n, width, height)           // uint8 [n, height, width, 3]
//	drawn, err := sheet.Draw(images, sheet.Options{Labels: labels, Title: "step 1,000"})
//	err = sheet.WritePNG("samples.png", drawn)                  // whole or not at all
//
// The shape of a sheet: pictures that come class by class, equally many of each, stand a class in a row, if the longer
// side of all pictures together is at most 2.5 times the shorter. Else the sheet gets the number of columns that brings
// it closest to between a square and 4:3 with the fewest empty cells, which stay white at its end; among these it
// prefers rows of whole classes, again up to 2.5 times. No side is longer than [MaxSide] pixels: more pictures than
// that holds are refused by [Check], before anything is drawn.
//
// Words are written in any script for which the machine has a font, from right to left where they are read so. Where no
// font has the letters, a label's other words, such as the number of a class, stand in their place.
package sheet

import (
	"image"
	"image/color"
	"image/draw"

	"github.com/disintegration/imaging"
)

// Draw geometry, in pixels.
const (
	minCell   = 96 // smaller images are enlarged by the whole factor that reaches this
	gap       = 4
	margin    = 10
	titleGap  = 8
	minTitle  = 320 // pixels a title may have where the images have less
	maxBeside = 200 // pixels of a label at the left of a row
	// lines of a title, and of a label under or above an image
	titleLines, labelLines = 3, 2
)

var (
	paper     = color.NRGBA{255, 255, 255, 255}
	ink       = color.NRGBA{32, 32, 32, 255}
	cellFrame = color.NRGBA{222, 222, 222, 255}
)

// Options say what stands on a sheet beside the images.
type Options struct {
	Labels  []Label // one an image, or none
	Title   string
	Columns int    // images in a row; 0 chooses a good shape
	Fonts   *Fonts // nil means [SystemFonts]
}

// A Label stands beside an image, or once beside several that share it.
type Label struct {
	Text string
	Else string // stands where no font has the letters of Text: a number
	Note string // a line below
}

// Draw shows images of one size on white, under a title, with their labels. Small images are enlarged by a whole
// factor with hard pixels, so what is judged is what the model made. When all images have the same label, it is the
// title; when all of a column share theirs, it stands once above the column; when all of a row do, once at its
// left; else under each image. Words that have no room are cut with an ellipsis.
func Draw(images []image.Image, o Options) (image.Image, error) {
	size, err := sameSize(images)
	if err != nil {
		return nil, err
	}
	l, err := newLayout(size, len(images), o)
	if err != nil {
		return nil, err
	}
	sheet := image.NewRGBA(image.Rectangle{Max: l.size})
	draw.Draw(sheet, sheet.Rect, image.NewUniform(paper), image.Point{}, draw.Src)
	for i, line := range l.title {
		line.draw(sheet, ink, margin, margin+l.heading.ascent+i*l.heading.line)
	}
	for i, img := range images {
		at := l.cellAt(i)
		box := image.Rectangle{at, at.Add(l.cell)}
		// A hairline keeps images with a white border apart from the paper.
		draw.Draw(sheet, box.Inset(-1), image.NewUniform(cellFrame), image.Point{}, draw.Src)
		if l.cell != size {
			img = imaging.Resize(img, l.cell.X, l.cell.Y, imaging.NearestNeighbor)
		}
		draw.Draw(sheet, box, img, img.Bounds().Min, draw.Src)
		l.drawLabel(sheet, i, box)
	}
	return sheet, nil
}

// drawLabel writes what stands beside image i.
func (l *layout) drawLabel(dst draw.Image, i int, box image.Rectangle) {
	lines := l.labels[i]
	switch {
	case len(lines) == 0:
	case l.place == underEach, l.place == aboveColumns:
		baseline := box.Max.Y + gap/2 + l.text.ascent
		if l.place == aboveColumns {
			baseline = l.origin.Y - gap - (len(lines)-1)*l.text.line - l.text.line + l.text.ascent
		}
		for k, line := range lines {
			line.draw(dst, ink, box.Min.X+(l.cell.X-line.width)/2, baseline+k*l.text.line)
		}
	case l.place == leftOfRows:
		baseline := box.Min.Y + (l.cell.Y+l.text.capitals-(len(lines)-1)*l.text.line)/2
		for k, line := range lines {
			line.draw(dst, ink, l.origin.X-2*gap-line.width, baseline+k*l.text.line)
		}
	}
}
