package codec

// #include "codec.h"
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unsafe"

	"github.com/ditrun/ditrun/internal/names"
)

// ZlibVersion is the version of zlib.
func ZlibVersion() string { return "zlib " + C.GoString(C.dit_zlib_version()) }

// PNGSize returns the size in pixels that the header of a PNG file gives.
func PNGSize(b []byte) (w, h int, err error) {
	p, err := readPNG(b)
	if err != nil {
		return 0, 0, err
	}
	return int(p.w), int(p.h), nil
}

// PNG decodes a PNG file of w x h pixels into dst as RGB, [h, w, 3]: gray is replicated, alpha dropped, and of 16 bits
// the high byte taken, but 16-bit gray is cut off at 255; clipped says that some was.
//
// What is accepted is what Pillow accepts. Checksums of chunks before the pixels must be right; those of the pixels and
// of what comes later are not looked at. Nothing need follow the pixels. Pixel data that end early are an error, and so
// are those of fewer rows than the header says, which Pillow makes black.
func PNG(b, dst []byte, w, h int) (clipped bool, err error) {
	p, err := readPNG(b)
	if err != nil {
		return false, err
	}
	if int(p.w) != w || int(p.h) != h || len(dst) != 3*w*h {
		return false, fmt.Errorf("%d x %d pixels, room for %d samples", p.w, p.h, len(dst))
	}
	var message [C.DIT_MESSAGE]C.char
	var last C.size_t
	var cut C.int
	if C.dit_png((*C.uint8_t)(unsafe.SliceData(b)), &p.head, unsafe.SliceData(p.parts), C.size_t(len(p.parts)/2),
		(*C.uint8_t)(unsafe.SliceData(dst)), &last, &cut, &message[0]) == 0 {
		return false, errors.New(C.GoString(&message[0]))
	}
	// The chunks that follow must be whole, up to the end marker, to what is no chunk, or to the next frame.
	for at := int(p.parts[2*last]+p.parts[2*last+1]) + 4; ; {
		c, ok := chunkAt(b, at)
		if !ok || c.kind == "IEND" || c.kind == "fcTL" {
			return cut != 0, nil
		}
		if c.data == nil {
			return false, fmt.Errorf("truncated: the file ends within a chunk %s", c.kind)
		}
		at = c.end
	}
}

// pngFile is what a PNG file says before its pixels, and where they are.
type pngFile struct {
	w, h  uint32
	head  C.struct_dit_png
	parts []C.size_t // offset and length of each run of pixel data, as dit_png takes them
}

// chunk is one chunk of a PNG file. data is nil where the file ends too soon for it, end the place of the next chunk.
type chunk struct {
	kind    string
	data    []byte
	at, end int
}

// chunkAt reads the chunk that begins at a place of b; false where there is none.
func chunkAt(b []byte, at int) (c chunk, ok bool) {
	if at > len(b)-8 {
		return c, false
	}
	c.kind, c.at = string(b[at+4:at+8]), at+8
	for _, v := range []byte(c.kind) {
		if v != '_' && (v < '0' || v > '9') && (v|0x20 < 'a' || v|0x20 > 'z') {
			return c, false
		}
	}
	n := int(binary.BigEndian.Uint32(b[at:]))
	if c.end = c.at + n + 4; n <= len(b)-c.at {
		c.data = b[c.at : c.at+n : c.at+n]
	}
	return c, true
}

// isPixels says whether pixel data may go on in a chunk of this kind. Pillow takes the second one, of another format.
func isPixels(kind string) bool { return kind == "IDAT" || kind == "DDAT" }

const pngSignature = "\x89PNG\r\n\x1a\n"

// readPNG reads all chunks up to the pixels and checks them.
func readPNG(b []byte) (*pngFile, error) {
	p := new(pngFile)
	var palette, frame []byte
	at, begun := len(pngSignature), false
	for {
		c, ok := chunkAt(b, at)
		switch {
		case !ok && at > len(b)-8:
			return nil, errors.New("truncated: the file ends before the pixel data")
		case !ok:
			return nil, fmt.Errorf("damaged: %q where a chunk should begin", b[at:at+8])
		case c.kind == "IDAT":
			if !begun {
				return nil, errors.New("damaged: no header")
			}
			if err := p.check(palette, frame); err != nil {
				return nil, err
			}
			p.findPixels(b, at)
			return p, nil
		case c.kind == "IEND":
			return nil, errors.New("no pixel data")
		case c.data == nil || c.end > len(b):
			return nil, fmt.Errorf("truncated: the file ends within a chunk %s", c.kind)
		case crc32.ChecksumIEEE(b[c.at-4:c.end-4]) != binary.BigEndian.Uint32(b[c.end-4:]):
			return nil, fmt.Errorf("damaged: the checksum of a chunk %s is wrong", c.kind)
		}
		switch c.kind {
		case "IHDR":
			if len(c.data) < 13 {
				return nil, errors.New("damaged: a short header")
			}
			begun = true
			p.w, p.h = binary.BigEndian.Uint32(c.data), binary.BigEndian.Uint32(c.data[4:])
			p.head.w, p.head.h = C.uint32_t(p.w), C.uint32_t(p.h)
			p.head.bits, p.head.colour = C.int(c.data[8]), C.int(c.data[9])
			if c.data[11] != 0 {
				return nil, fmt.Errorf("a kind of filters, %d, that is not known", c.data[11])
			}
			p.head.interlaced = C.int(c.data[12])
		case "PLTE":
			palette = c.data
		case "fcTL":
			frame = c.data
		}
		at = c.end
	}
}

// check looks at the header, and keeps the palette. frame is the first frame of an animation.
func (p *pngFile) check(palette, frame []byte) error {
	bits, colour := int(p.head.bits), int(p.head.colour)
	switch colour<<8 | bits {
	case 0<<8 | 1, 0<<8 | 2, 0<<8 | 4, 0<<8 | 8, 0<<8 | 16, 2<<8 | 8, 2<<8 | 16, 3<<8 | 1, 3<<8 | 2, 3<<8 | 4, 3<<8 | 8,
		4<<8 | 8, 4<<8 | 16, 6<<8 | 8, 6<<8 | 16:
	default:
		return fmt.Errorf("%s a sample with colour type %d: no such kind of PNG", names.Plural(bits, "bit"), colour)
	}
	if colour == 3 {
		if len(palette) < 3 || len(palette) > 3*256 {
			return fmt.Errorf("a palette of %d colours: want 1 to 256", len(palette)/3)
		}
		for i := range len(palette) / 3 {
			for k := range 3 {
				p.head.palette[i][k] = C.uint8_t(palette[3*i+k])
			}
		}
	}
	if frame != nil && (len(frame) < 20 || binary.BigEndian.Uint32(frame[4:]) != p.w ||
		binary.BigEndian.Uint32(frame[8:]) != p.h || binary.BigEndian.Uint64(frame[12:]) != 0) {
		return errors.New("an animation whose first frame is not the whole picture")
	}
	return nil
}

// findPixels lists the chunks of pixel data from the first, at a place of b, on.
func (p *pngFile) findPixels(b []byte, at int) {
	for {
		c, ok := chunkAt(b, at)
		if !ok || !isPixels(c.kind) {
			return
		}
		p.parts = append(p.parts, C.size_t(c.at), C.size_t(min(c.end-4, len(b))-c.at))
		at = c.end
	}
}
