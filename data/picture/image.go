package picture

// Image is a picture of 8-bit RGB samples: the sample of channel c at (x, y) is Pix[3*(y*W+x)+c].
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
