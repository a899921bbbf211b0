package picture

import (
	"image"
	"image/color"
)

// Image is a picture of 8-bit RGB samples: the sample of channel c at (x, y) is Pix[3*(y*W+x)+c]. It is an
// [image.Image], so png.Encode, draw.Draw and other packages take it; [FromImage] makes one of theirs.
type Image struct {
	W, H int
	Pix  []uint8
	// Clipped says that it was decoded from 16-bit gray, and that levels above 255 became 255, as they do in Pillow:
	// hardly what anybody wants.
	Clipped bool
	// Oriented says that the EXIF data of its file have an orientation other than upright. Whether the pixels were
	// turned is up to the Options of the source.
	Oriented bool
}

// NewImage returns a black picture of w x h pixels.
func NewImage(w, h int) *Image {
	return &Image{W: w, H: h, Pix: make([]uint8, 3*w*h)}
}

// FromImage copies the colours of m, without its transparency, as [Decode] does for a file of them. The result begins
// at (0, 0).
func FromImage(m image.Image) *Image {
	img := new(Image)
	toRGB(img, m)
	return img
}

// ColorModel returns that of RGBA.
func (img *Image) ColorModel() color.Model { return color.RGBAModel }

// Bounds returns the rectangle from (0, 0) to (W, H).
func (img *Image) Bounds() image.Rectangle { return image.Rect(0, 0, img.W, img.H) }

// At returns the colour at (x, y), none outside the bounds.
func (img *Image) At(x, y int) color.Color {
	if !(image.Point{X: x, Y: y}.In(img.Bounds())) {
		return color.RGBA{}
	}
	p := img.Pix[3*(y*img.W+x):]
	return color.RGBA{R: p[0], G: p[1], B: p[2], A: 255}
}

// Opaque is true: a picture has no transparency.
func (img *Image) Opaque() bool { return true }

// resize makes img one of w x h pixels of no certain colour.
func (img *Image) resize(w, h int) {
	img.W, img.H, img.Pix = w, h, grow(img.Pix, 3*w*h)
}

// Mirror turns pixels [H, W, 3] of a picture of such a size left to right, in place.
func Mirror(pix []uint8, size Size) {
	w, h := size.Width, size.Height
	for y := range h {
		row := pix[3*y*w : 3*(y+1)*w]
		for i, j := 0, len(row)-3; i < j; i, j = i+3, j-3 {
			left, right := (*[3]uint8)(row[i:]), (*[3]uint8)(row[j:])
			*left, *right = *right, *left
		}
	}
}
