// Package sheet arranges pictures on one sheet: in the plain grid that DiT's sample.py writes, or with words beside
// them and small ones enlarged, so that a person can judge them.
//
//	images, err := sheet.Batch(pix, n, width, height)           // uint8 [n, height, width, 3]
//	grid, err := sheet.Grid(images, 4, 2)                       // as torchvision's make_grid
//	drawn, err := sheet.Draw(images, labels, 8, "step 1,000")
//	err = sheet.WritePNG("samples.png", drawn)                  // whole or not at all
package sheet

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"path/filepath"

	"github.com/ditrun/ditrun/internal/disk"
)

// FromRGB makes an image of w*h*3 bytes, red, green, blue per pixel, rows from
// the top. The bytes are copied.
func FromRGB(pix []uint8, w, h int) (*image.NRGBA, error) {
	if w <= 0 || h <= 0 || len(pix) != 3*w*h {
		return nil, fmt.Errorf("sheet: %d bytes for %dx%d RGB pixels, want %d", len(pix), w, h, 3*w*h)
	}
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		copy(img.Pix[4*i:], pix[3*i:3*i+3])
		img.Pix[4*i+3] = 255
	}
	return img, nil
}

// Batch splits n images that lie one after another (uint8 [n, h, w, 3]).
func Batch(pix []uint8, n, w, h int) ([]image.Image, error) {
	if n <= 0 || len(pix) != 3*w*h*n {
		return nil, fmt.Errorf("sheet: %d bytes for %d images of %dx%d RGB pixels, want %d", len(pix), n, w, h, 3*w*h*n)
	}
	images := make([]image.Image, n)
	for i := range images {
		img, err := FromRGB(pix[i*3*w*h:(i+1)*3*w*h], w, h)
		if err != nil {
			return nil, err
		}
		images[i] = img
	}
	return images, nil
}

// Grid places images of one size in rows of perRow, left to right, with
// padding black pixels around each. It is torchvision's make_grid, which
// sample.py calls with perRow 4 and padding 2: a single image is returned as
// it is, and cells of the last row that are not needed stay black.
func Grid(images []image.Image, perRow, padding int) (image.Image, error) {
	size, err := sameSize(images)
	if err != nil {
		return nil, err
	}
	if perRow < 1 || padding < 0 {
		return nil, fmt.Errorf("sheet: grid of %d per row, padding %d: want at least 1 and 0", perRow, padding)
	}
	if len(images) == 1 {
		return images[0], nil
	}
	columns := min(perRow, len(images))
	pitch := size.Add(image.Pt(padding, padding))
	whole := gridSize(size, len(images), perRow, padding)
	sheet := newCanvas(whole.X, whole.Y, color.Black)
	for i, img := range images {
		at := image.Pt(i%columns*pitch.X+padding, i/columns*pitch.Y+padding)
		draw.Draw(sheet, image.Rectangle{at, at.Add(size)}, img, img.Bounds().Min, draw.Src)
	}
	return sheet, nil
}

// gridSize is the size of a [Grid] of n images.
func gridSize(size image.Point, n, perRow, padding int) image.Point {
	columns := min(perRow, n)
	rows := (n + columns - 1) / columns
	return image.Pt(columns*(size.X+padding)+padding, rows*(size.Y+padding)+padding)
}

// WritePNG writes img to path, aside first and then renamed.
func WritePNG(path string, img image.Image) error {
	return disk.WriteFile(path, func(w io.Writer) error {
		return png.Encode(w, img)
	})
}

// NumberedName is the file of image i in a folder of samples: DIR/000017.png.
func NumberedName(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("%06d.png", i))
}

// sameSize returns the size that all images have.
func sameSize(images []image.Image) (image.Point, error) {
	if len(images) == 0 {
		return image.Point{}, fmt.Errorf("sheet: no images")
	}
	size := images[0].Bounds().Size()
	for i, img := range images {
		if s := img.Bounds().Size(); s != size {
			return size, fmt.Errorf("sheet: image %d is %dx%d, want %dx%d as the first", i, s.X, s.Y, size.X, size.Y)
		}
	}
	if size.X < 1 || size.Y < 1 {
		return size, fmt.Errorf("sheet: image 0 is empty")
	}
	return size, nil
}

func newCanvas(w, h int, c color.Color) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	draw.Draw(img, img.Bounds(), image.NewUniform(c), image.Point{}, draw.Src)
	return img
}
