package data

import (
	"image"
	"image/color"
)

// toRGB copies the stored colour of every pixel of m to img.
func toRGB(img *Image, m image.Image) {
	r := m.Bounds()
	img.resize(r.Dx(), r.Dy())
	out := img.Pix
	put := func(r, g, b uint8) {
		out[0], out[1], out[2] = r, g, b
		out = out[3:]
	}
	rows := func(pix []uint8, stride, size int, pixel func(p []uint8)) {
		for y := range r.Dy() {
			row := pix[y*stride:]
			for x := range r.Dx() {
				pixel(row[x*size : (x+1)*size])
			}
		}
	}
	switch m := m.(type) {
	case *image.YCbCr:
		for y := r.Min.Y; y < r.Max.Y; y++ {
			for x := r.Min.X; x < r.Max.X; x++ {
				yi, ci := m.YOffset(x, y), m.COffset(x, y)
				put(color.YCbCrToRGB(m.Y[yi], m.Cb[ci], m.Cr[ci]))
			}
		}
	case *image.NYCbCrA:
		toRGB(img, &m.YCbCr)
	case *image.Gray:
		rows(m.Pix, m.Stride, 1, func(p []uint8) { put(p[0], p[0], p[0]) })
	case *image.Gray16:
		rows(m.Pix, m.Stride, 2, func(p []uint8) {
			v := p[1]
			if p[0] != 0 {
				v, img.Clipped = 255, true
			}
			put(v, v, v)
		})
	case *image.NRGBA:
		rows(m.Pix, m.Stride, 4, func(p []uint8) { put(p[0], p[1], p[2]) })
	case *image.NRGBA64:
		rows(m.Pix, m.Stride, 8, func(p []uint8) { put(p[0], p[2], p[4]) })
	case *image.RGBA:
		rows(m.Pix, m.Stride, 4, func(p []uint8) {
			if p[3] == 0 || p[3] == 255 {
				put(p[0], p[1], p[2])
				return
			}
			c := color.NRGBAModel.Convert(color.RGBA{R: p[0], G: p[1], B: p[2], A: p[3]}).(color.NRGBA)
			put(c.R, c.G, c.B)
		})
	case *image.RGBA64:
		rows(m.Pix, m.Stride, 8, func(p []uint8) { put(p[0], p[2], p[4]) })
	case *image.CMYK:
		rows(m.Pix, m.Stride, 4, func(p []uint8) {
			n := 255 - int(p[3])
			ink := func(c uint8) uint8 {
				t := int(c)*n + 128
				return uint8(max(0, n-(t+t>>8)>>8))
			}
			put(ink(p[0]), ink(p[1]), ink(p[2]))
		})
	case *image.Paletted:
		table := make([][3]uint8, 256)
		for i, c := range m.Palette {
			switch c := c.(type) {
			case color.NRGBA:
				table[i] = [3]uint8{c.R, c.G, c.B}
			case color.RGBA:
				table[i] = [3]uint8{c.R, c.G, c.B}
			default:
				n := color.NRGBAModel.Convert(c).(color.NRGBA)
				table[i] = [3]uint8{n.R, n.G, n.B}
			}
		}
		rows(m.Pix, m.Stride, 1, func(p []uint8) { c := table[p[0]]; put(c[0], c[1], c[2]) })
	default:
		for y := r.Min.Y; y < r.Max.Y; y++ {
			for x := r.Min.X; x < r.Max.X; x++ {
				c := color.NRGBAModel.Convert(m.At(x, y)).(color.NRGBA)
				put(c.R, c.G, c.B)
			}
		}
	}
}
