package picture

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// bmpFile is the header of a BMP picture.
type bmpFile struct {
	w, h    int
	topDown bool
	bits    int
	palette [256][3]uint8
	masks   [3]uint32 // of red, green and blue, where there is no palette
	pixels  []byte
}

func readBMP(b []byte) (*bmpFile, error) {
	const fileHeader = 14
	if len(b) < fileHeader+4 {
		return nil, errTruncated
	}
	short := func(at int) int { return int(binary.LittleEndian.Uint16(b[at:])) }
	long := func(at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }
	f, size, offset := new(bmpFile), long(fileHeader), long(10)
	switch size {
	case 12, 40, 52, 56, 64, 108, 124:
	default:
		return nil, fmt.Errorf("damaged: a header of %d bytes", size)
	}
	end := fileHeader + size
	if len(b) < end {
		return nil, errTruncated
	}
	compression, colours, entry := 0, 0, 3
	if size == 12 { // of OS/2
		f.w, f.h, f.bits = short(18), short(20), short(24)
	} else {
		f.w, f.h, f.bits = long(18), int(int32(long(22))), short(28)
		compression, colours, entry = long(30), long(46), 4
		if f.topDown = f.h < 0; f.topDown {
			f.h = -f.h
		}
	}
	switch compression {
	case 0:
	case 1, 2:
		return nil, convert("compressed as RLE")
	case 3:
		if size == 64 {
			return nil, convert("compressed as Huffman 1D")
		}
		if size == 40 {
			end += 12
		}
		if len(b) < end {
			return nil, errTruncated
		}
	case 4, 5:
		return nil, convert("a JPEG or PNG within")
	default:
		return nil, convert(fmt.Sprintf("compressed in way %d", compression))
	}
	switch {
	case compression == 3 && (f.bits == 16 || f.bits == 24 || f.bits == 32):
		const masks = 54
		for i := range f.masks {
			f.masks[i] = binary.LittleEndian.Uint32(b[masks+4*i:])
		}
		if f.masks == [3]uint32{} && f.bits == 32 {
			f.masks = [3]uint32{0xff0000, 0xff00, 0xff}
		}
	case compression == 0 && f.bits == 16:
		f.masks = [3]uint32{0x7c00, 0x3e0, 0x1f}
	case compression == 0 && (f.bits == 24 || f.bits == 32):
		f.masks = [3]uint32{0xff0000, 0xff00, 0xff}
	case compression == 0 && (f.bits == 1 || f.bits == 4 || f.bits == 8):
		if colours == 0 {
			colours = 1 << f.bits
		}
		if colours > 256 {
			return nil, fmt.Errorf("damaged: a palette of %d colours", colours)
		}
		for i := 0; i < colours && end+3 <= len(b); i, end = i+1, end+entry {
			f.palette[i] = [3]uint8{b[end+2], b[end+1], b[end]}
		}
	default:
		return nil, convert(fmt.Sprintf("%d bits a pixel", f.bits))
	}
	for _, m := range f.masks {
		if f.bits >= 16 && (m == 0 || bits.OnesCount32(m>>bits.TrailingZeros32(m)+1) != 1 || bits.OnesCount32(m) > 8) {
			return nil, convert(fmt.Sprintf("channels in the bits %08x, %08x and %08x", f.masks[0], f.masks[1],
				f.masks[2]))
		}
	}
	// Some writers leave the palette out of the offset, or the offset out.
	if offset > 0 && offset != fileHeader+size {
		end = offset
	}
	if end > len(b) {
		return nil, errTruncated
	}
	f.pixels = b[end:]
	return f, nil
}

func bmpSize(b []byte) (w, h int, err error) {
	f, err := readBMP(b)
	if err != nil {
		return 0, 0, err
	}
	return f.w, f.h, nil
}

func decodeBMP(img *Image, b []byte, w, h int) error {
	f, err := readBMP(b)
	if err != nil {
		return err
	}
	used := (w*f.bits + 7) / 8
	stride := (w*f.bits + 31) / 32 * 4
	if len(f.pixels) < stride*(h-1)+used {
		return errTruncated
	}
	img.resize(w, h)
	for y := range h {
		row, out := f.pixels[stride*y:], img.Pix[3*w*y:]
		if !f.topDown {
			out = img.Pix[3*w*(h-1-y):]
		}
		if f.bits < 16 {
			for x := range w {
				at := x * f.bits
				c := f.palette[row[at/8]>>(8-f.bits-at%8)&(1<<f.bits-1)]
				copy(out[3*x:3*x+3], c[:])
			}
			continue
		}
		n := f.bits / 8
		for x := range w {
			var v uint32
			for i := range n {
				v |= uint32(row[n*x+i]) << (8 * i)
			}
			for c, m := range f.masks {
				low := bits.TrailingZeros32(m)
				if m>>low == 255 && low%8 == 0 { // as nearly always
					out[3*x+c] = row[n*x+low/8]
					continue
				}
				out[3*x+c] = uint8(v & m >> low * 255 / (m >> low))
			}
		}
	}
	return nil
}
