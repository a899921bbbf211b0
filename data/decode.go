package data

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"
)

// maxPixels is Pillow's hard limit against decompression bombs.
const maxPixels = 2 * 89478485

// format is a picture format known by the first bytes of its files.
type format struct {
	name   string
	magic  []string
	config func(io.Reader) (image.Config, error)
	decode func([]byte) (*Image, error)
}

var formats = []format{
	{"JPEG", []string{"\xff\xd8\xff"}, jpeg.DecodeConfig, plainDecoder(jpeg.Decode)},
	{"PNG", []string{"\x89PNG\r\n\x1a\n"}, png.DecodeConfig, decodePNG},
	{"GIF", []string{"GIF87a", "GIF89a"}, gif.DecodeConfig, decodeGIF},
	{"BMP", []string{"BM"}, bmp.DecodeConfig, plainDecoder(bmp.Decode)},
	{"TIFF", []string{"II\x2a\x00", "MM\x00\x2a"}, tiff.DecodeConfig, plainDecoder(tiff.Decode)},
	{"WebP", []string{"RIFF"}, webp.DecodeConfig, plainDecoder(webp.Decode)},
}

// Decode turns the bytes of a picture file into RGB, as Pillow's convert("RGB") does: alpha is dropped without
// blending, gray and palettes are expanded, 16-bit colour keeps its high byte, 16-bit gray is cut off at 255, EXIF
// and TIFF orientation and colour profiles are ignored, and of several frames the first is taken. The format is
// told by content: JPEG, PNG, GIF, BMP, TIFF or WebP.
//
// PNG, GIF, BMP, TIFF and lossless WebP equal Pillow bit for bit. JPEG and lossy WebP do not: gray and 4:4:4 differ
// by up to 4 levels, and more (up to about 50) where chroma is subsampled, which libjpeg-turbo and libwebp
// interpolate and Go repeats. A picture of more than 2 x 89,478,485 pixels is refused before it is decoded; a
// decoder that panics gives an error.
func Decode(b []byte) (img *Image, err error) {
	if len(b) == 0 {
		return nil, errors.New("empty file")
	}
	f, err := sniff(b)
	if err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			img, err = nil, fmt.Errorf("%s decoder: panic: %v", f.name, r)
		}
	}()
	c, err := f.config(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	if c.Width < 1 || c.Height < 1 || int64(c.Width)*int64(c.Height) > maxPixels {
		return nil, fmt.Errorf("%s of %d x %d pixels: want 1 to %d", f.name, c.Width, c.Height, maxPixels)
	}
	img, err = f.decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.name, err)
	}
	return img, nil
}

func sniff(b []byte) (format, error) {
	for _, f := range formats {
		for _, m := range f.magic {
			if bytes.HasPrefix(b, []byte(m)) {
				return f, nil
			}
		}
	}
	if len(b) > 2 && b[0] == 'P' && b[1] >= '1' && b[1] <= '7' {
		return format{}, errors.New("netpbm pictures are not supported: convert them to PNG")
	}
	return format{}, fmt.Errorf("not a picture: starts with % x, want JPEG, PNG, GIF, BMP, TIFF or WebP", b[:min(len(b), 8)])
}

func plainDecoder(decode func(io.Reader) (image.Image, error)) func([]byte) (*Image, error) {
	return func(b []byte) (*Image, error) {
		m, err := decode(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return toRGB(m), nil
	}
}

func decodePNG(b []byte) (*Image, error) {
	m, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	// 16-bit gray with a transparent level comes as NRGBA64, as colour does; only the header tells them apart.
	const bitDepth, colourType = 24, 25
	if n, ok := m.(*image.NRGBA64); ok && b[bitDepth] == 16 && b[colourType] == 0 {
		g := image.NewGray16(n.Rect)
		for i := range len(g.Pix) / 2 {
			copy(g.Pix[2*i:2*i+2], n.Pix[8*i:])
		}
		m = g
	}
	return toRGB(m), nil
}

// decodeGIF keeps the colour that the table gives for the transparent index, which Go's decoder would replace by
// black, and lays the first frame on a screen of that index (of index 0 where there is none), as Pillow does.
func decodeGIF(b []byte) (*Image, error) {
	b = bytes.Clone(b)
	fill := clearTransparency(b)
	g, err := gif.Decode(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	c, err := gif.DecodeConfig(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	frame, screen := g.(*image.Paletted), image.Rect(0, 0, c.Width, c.Height)
	if frame.Rect == screen {
		return toRGB(frame), nil
	}
	full := image.NewPaletted(screen, frame.Palette)
	for i := range full.Pix {
		full.Pix[i] = fill
	}
	r := frame.Rect.Intersect(screen)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		copy(full.Pix[full.PixOffset(r.Min.X, y):full.PixOffset(r.Max.X, y)], frame.Pix[frame.PixOffset(r.Min.X, y):])
	}
	return toRGB(full), nil
}

// clearTransparency unsets the transparency flag of the first frame of a GIF and returns the index it named.
func clearTransparency(b []byte) (index uint8) {
	i := 13 // header and logical screen descriptor
	if len(b) < i {
		return 0
	}
	if b[10]&0x80 != 0 {
		i += 3 << (b[10]&7 + 1)
	}
	for i+8 <= len(b) && b[i] == 0x21 { // extensions; the first frame begins with 0x2c
		if b[i+1] == 0xf9 && b[i+3]&1 != 0 {
			b[i+3] &^= 1
			index = b[i+6]
		}
		i += 2
		for i < len(b) && b[i] != 0 {
			i += 1 + int(b[i])
		}
		i++
	}
	return index
}

// toRGB copies the stored colour of every pixel.
func toRGB(m image.Image) *Image {
	r := m.Bounds()
	img := NewImage(r.Dx(), r.Dy())
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
		return toRGB(&m.YCbCr)
	case *image.Gray:
		rows(m.Pix, m.Stride, 1, func(p []uint8) { put(p[0], p[0], p[0]) })
	case *image.Gray16:
		rows(m.Pix, m.Stride, 2, func(p []uint8) {
			v := p[1]
			if p[0] != 0 {
				v = 255
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
	return img
}
