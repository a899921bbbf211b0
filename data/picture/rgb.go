package picture

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
		rows(m.Pix, m.Stride, 4, func(p []uint8) { put(straight(p[0], p[1], p[2], p[3])) })
	case *image.RGBA64:
		rows(m.Pix, m.Stride, 8, func(p []uint8) { put(straight(p[0], p[2], p[4], p[6])) })
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

// straight divides a colour by its alpha, as Pillow does.
func straight(r, g, b, alpha uint8) (uint8, uint8, uint8) {
	if alpha == 255 {
		return r, g, b
	}
	if alpha == 0 {
		return 0, 0, 0
	}
	c := func(v uint8) uint8 { return uint8(min(255, int(v)*255/int(alpha))) }
	return c(r), c(g), c(b)
}
