package data

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/image/tiff"
)

func decodeTIFF(img *Image, b []byte, _, _ int) error {
	m, err := tiff.Decode(bytes.NewReader(b))
	if err != nil {
		return err
	}
	toRGB(img, m)
	*img = *orient(img, tiffOrientation(b))
	return nil
}

// tiffOrientation returns the orientation that the first directory of a TIFF file gives, 1 (upright) where there is none.
func tiffOrientation(b []byte) int {
	const tag, short = 274, 3
	if len(b) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.LittleEndian
	if b[0] == 'M' {
		order = binary.BigEndian
	}
	at := int64(order.Uint32(b[4:]))
	if at+2 > int64(len(b)) {
		return 1
	}
	for i := range int64(order.Uint16(b[at:])) {
		e := at + 2 + 12*i
		if e+12 > int64(len(b)) {
			break
		}
		if order.Uint16(b[e:]) == tag && order.Uint16(b[e+2:]) == short {
			if v := int(order.Uint16(b[e+8:])); v >= 1 && v <= 8 {
				return v
			}
		}
	}
	return 1
}

// orient turns a picture upright: orientation is where its first row and column lie (TIFF 6.0, section 8).
func orient(img *Image, orientation int) *Image {
	if orientation == 1 {
		return img
	}
	w, h := img.W, img.H
	out := NewImage(w, h)
	out.Clipped = img.Clipped
	if orientation >= 5 {
		out.W, out.H = h, w
	}
	for y := range h {
		for x := range w {
			u, v := x, y
			switch orientation {
			case 2:
				u = w - 1 - x
			case 3:
				u, v = w-1-x, h-1-y
			case 4:
				v = h - 1 - y
			case 5:
				u, v = y, x
			case 6:
				u, v = h-1-y, x
			case 7:
				u, v = h-1-y, w-1-x
			case 8:
				u, v = y, w-1-x
			}
			copy(out.Pix[3*(v*out.W+u):3*(v*out.W+u)+3], img.Pix[3*(y*w+x):])
		}
	}
	return out
}
