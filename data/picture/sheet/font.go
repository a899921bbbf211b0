package sheet

import (
	"fmt"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
)

// newFace opens the Go font, which is compiled into the binary, at a size in
// pixels.
func newFace(size float64) (font.Face, error) {
	return openFace(goregular.TTF, size)
}

func newBoldFace(size float64) (font.Face, error) {
	return openFace(gobold.TTF, size)
}

func openFace(ttf []byte, size float64) (font.Face, error) {
	f, err := opentype.Parse(ttf)
	if err != nil {
		return nil, fmt.Errorf("sheet: font: %w", err)
	}
	// At 72 dots per inch a point is a pixel.
	face, err := opentype.NewFace(f, &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		return nil, fmt.Errorf("sheet: font: %w", err)
	}
	return face, nil
}
