package picture_test

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"testing"

	"github.com/disintegration/imaging"

	"github.com/ditrun/ditrun/data/picture"
)

// TestImageOfTheStandardLibrary: a picture goes through packages that know image.Image alone.
func TestImageOfTheStandardLibrary(t *testing.T) {
	img := picture.NewImage(3, 2)
	for i := range img.Pix {
		img.Pix[i] = uint8(10 * i)
	}
	var file bytes.Buffer
	if err := png.Encode(&file, img); err != nil {
		t.Fatal(err)
	}
	again, err := picture.Decode(file.Bytes())
	if err != nil || again.W != 3 || again.H != 2 || !bytes.Equal(again.Pix, img.Pix) {
		t.Errorf("as PNG and back: %+v, %v", again, err)
	}
	if back := picture.FromImage(img); !bytes.Equal(back.Pix, img.Pix) || back.W != 3 {
		t.Errorf("from an image and back: %+v", back)
	}
	turned := picture.FromImage(imaging.Rotate180(img))
	if got, want := turned.Pix[:3], img.Pix[15:]; !bytes.Equal(got, want) {
		t.Errorf("the first pixel of a turned picture is %v, want %v", got, want)
	}
	if got := img.At(3, 0); got != (color.RGBA{}) {
		t.Errorf("outside: %v", got)
	}
	if part := picture.FromImage(imaging.Crop(img, image.Rect(1, 1, 3, 2))); part.W != 2 ||
		!bytes.Equal(part.Pix, img.Pix[12:]) {
		t.Errorf("a part: %+v", part)
	}
}
