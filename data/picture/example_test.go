package picture_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"log"

	"github.com/ditrun/ditrun/data/picture"
)

// A picture is an image.Image, and is made from one.
func Example() {
	red := image.NewRGBA(image.Rect(0, 0, 40, 30))
	draw.Draw(red, red.Bounds(), image.NewUniform(color.RGBA{R: 200, A: 255}), image.Point{}, draw.Src)
	var file bytes.Buffer
	if err := png.Encode(&file, red); err != nil {
		log.Fatal(err)
	}

	img, err := picture.Decode(file.Bytes()) // as Pillow does; picture.FromImage(red) copies the same pixels
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(img.Bounds(), img.At(0, 0))
	crop, err := picture.CenterCrop(img, picture.Square(16)) // what a model is trained on
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(crop.Bounds(), crop.Pix[:3])
	// Output:
	// (0,0)-(40,30) {200 0 0 255}
	// (0,0)-(16,16) [200 0 0]
}
