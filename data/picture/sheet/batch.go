package sheet

import (
	"fmt"
	"image"
	"path/filepath"
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
