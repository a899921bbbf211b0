// Command pictures writes stand-ins for a reader's pictures into DIR/pictures: class folders with drawn shapes.
//
//	pictures DIR
package main

import (
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"log"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: pictures DIR")
	}
	for class, name := range []string{"bag", "cat", "dog", "red apple", "sneaker"} {
		for i := range 8 {
			path := filepath.Join(os.Args[1], "pictures", name, fmt.Sprintf("%s-%d.jpg", name, i))
			if err := write(path, draw(class, i)); err != nil {
				log.Fatal(err)
			}
		}
	}
}

// draw returns a disc or a box of the class's colour on a gradient.
func draw(class, i int) image.Image {
	const w, h = 96, 80
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.RGBA{uint8(2 * x), uint8(3 * y), uint8(20 * i), 255}
			dx, dy, r := x-w/2-i+4, y-h/2, 20+2*i
			if inside := dx*dx+dy*dy < r*r; inside == (class%2 == 0) && max(dx, -dx, dy, -dy) < r {
				c = color.RGBA{uint8(50 * class), uint8(250 - 40*class), uint8(90*class + 7*i), 255}
			}
			m.Set(x, y, c)
		}
	}
	return m
}

func write(path string, m image.Image) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := jpeg.Encode(f, m, nil); err != nil {
		return err
	}
	return f.Close()
}
