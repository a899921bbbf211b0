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

// What compression in a header means.
const (
	bmpPlain = 0
	bmpMasks = 3 // not compressed, and channels in the bits that masks say
)

// bmpHeader is what a file says of itself.
type bmpHeader struct {
	size        int // of the header, which tells its version
	offset      int // of the pixels
	end         int // of the header, and of the masks behind it
	compression int
	colours     int // in the palette, 0 for as many as there may be
	entry       int // bytes of a colour in the palette
}

const bmpFileHeader = 14

func readBMP(b []byte) (*bmpFile, error) {
	f := new(bmpFile)
	h, err := f.readHeader(b)
	if err != nil {
		return nil, err
	}
	switch depth := f.bits; {
	case h.compression == bmpMasks && (depth == 16 || depth == 24 || depth == 32):
		const masks = 54
		for i := range f.masks {
			f.masks[i] = binary.LittleEndian.Uint32(b[masks+4*i:])
		}
		if f.masks == [3]uint32{} && depth == 32 {
			f.masks = [3]uint32{0xff0000, 0xff00, 0xff}
		}
	case h.compression == bmpPlain && depth == 16:
		f.masks = [3]uint32{0x7c00, 0x3e0, 0x1f}
	case h.compression == bmpPlain && (depth == 24 || depth == 32):
		f.masks = [3]uint32{0xff0000, 0xff00, 0xff}
	case h.compression == bmpPlain && (depth == 1 || depth == 4 || depth == 8):
		if err := f.readPalette(b, h); err != nil {
			return nil, err
		}
	default:
		return nil, convert(fmt.Sprintf("%d bits a pixel", depth))
	}
	if err := f.checkMasks(); err != nil {
		return nil, err
	}
	start := h.end
	// Some writers leave the palette out of the offset, or the offset out.
	if h.offset > 0 && h.offset != bmpFileHeader+h.size {
		start = h.offset
	}
	if start > len(b) {
		return nil, errTruncated
	}
	f.pixels = b[start:]
	return f, nil
}

// readHeader reads the size, and refuses what is not read.
func (f *bmpFile) readHeader(b []byte) (*bmpHeader, error) {
	if len(b) < bmpFileHeader+4 {
		return nil, errTruncated
	}
	short := func(at int) int { return int(binary.LittleEndian.Uint16(b[at:])) }
	long := func(at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }
	h := &bmpHeader{size: long(bmpFileHeader), offset: long(10), entry: 3}
	switch h.size {
	case 12, 40, 52, 56, 64, 108, 124:
	default:
		return nil, fmt.Errorf("damaged: a header of %d bytes", h.size)
	}
	if h.end = bmpFileHeader + h.size; len(b) < h.end {
		return nil, errTruncated
	}
	if h.size == 12 { // of OS/2
		f.w, f.h, f.bits = short(18), short(20), short(24)
	} else {
		f.w, f.h, f.bits = long(18), int(int32(long(22))), short(28)
		h.compression, h.colours, h.entry = long(30), long(46), 4
		if f.topDown = f.h < 0; f.topDown {
			f.h = -f.h
		}
	}
	switch h.compression {
	case bmpPlain:
	case 1, 2:
		return nil, convert("compressed as RLE")
	case bmpMasks:
		if h.size == 64 {
			return nil, convert("compressed as Huffman 1D")
		}
		if h.size == 40 {
			h.end += 12
		}
		if len(b) < h.end {
			return nil, errTruncated
		}
	case 4, 5:
		return nil, convert("a JPEG or PNG within")
	default:
		return nil, convert(fmt.Sprintf("compressed in way %d", h.compression))
	}
	return h, nil
}

// readPalette reads the palette, behind which the header then ends.
func (f *bmpFile) readPalette(b []byte, h *bmpHeader) error {
	if h.colours == 0 {
		h.colours = 1 << f.bits
	}
	if h.colours > len(f.palette) {
		return fmt.Errorf("damaged: a palette of %d colours", h.colours)
	}
	for i := 0; i < h.colours && h.end+3 <= len(b); i, h.end = i+1, h.end+h.entry {
		f.palette[i] = [3]uint8{b[h.end+2], b[h.end+1], b[h.end]}
	}
	return nil
}

// checkMasks refuses channels that are not of one to eight bits beside each other.
func (f *bmpFile) checkMasks() error {
	for _, m := range f.masks {
		if f.bits >= 16 && (m == 0 || bits.OnesCount32(m>>bits.TrailingZeros32(m)+1) != 1 || bits.OnesCount32(m) > 8) {
			return convert(fmt.Sprintf("channels in the bits %08x, %08x and %08x", f.masks[0], f.masks[1], f.masks[2]))
		}
	}
	return nil
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
