package picture

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// gifFile is what a GIF file says up to the pixels of its first frame.
type gifFile struct {
	w, h                   int // of the screen, which grows where the frame does not fit
	left, top, right, down int // of the frame
	interlaced             bool
	palette                [256][3]uint8
	fill                   uint8 // the colour beside the frame
	codeBits               int
	blocks                 []byte // pixels, in blocks
}

func readGIF(b []byte) (*gifFile, error) {
	const screen = 13
	if len(b) < screen {
		return nil, errTruncated
	}
	short := func(at int) int { return int(binary.LittleEndian.Uint16(b[at:])) }
	f, at := new(gifFile), screen
	f.w, f.h = short(6), short(8)
	// table reads a table of colours if the flags announce one.
	table := func(flags byte) (colours []byte, err error) {
		if flags&0x80 == 0 {
			return nil, nil
		}
		n := 3 << (flags&7 + 1)
		if len(b)-at < n {
			return nil, errTruncated
		}
		colours = b[at : at+n]
		at += n
		return colours, nil
	}
	colours, err := table(b[10])
	if err != nil {
		return nil, err
	}
	for {
		if at >= len(b) {
			return nil, errTruncated
		}
		switch at++; b[at-1] {
		case ';':
			return nil, errors.New("no picture in it")
		case '!': // an extension
			if len(b)-at >= 6 && b[at] == 0xf9 && b[at+1] >= 4 && b[at+2]&1 != 0 {
				f.fill = b[at+5]
			}
			for at++; at < len(b) && b[at] != 0; {
				at += 1 + int(b[at])
			}
			at++
		case ',': // a frame
			if len(b)-at < 9 {
				return nil, errTruncated
			}
			f.left, f.top = short(at), short(at+2)
			f.right, f.down = f.left+short(at+4), f.top+short(at+6)
			f.w, f.h = max(f.w, f.right), max(f.h, f.down)
			flags := b[at+8]
			f.interlaced = flags&0x40 != 0
			at += 9
			local, err := table(flags)
			if err != nil {
				return nil, err
			}
			if local != nil {
				colours = local
			}
			if at >= len(b) {
				return nil, errTruncated
			}
			f.setPalette(colours)
			f.codeBits, f.blocks = int(b[at]), b[at+1:]
			if f.left == f.right || f.top == f.down {
				return nil, errors.New("damaged: a frame without pixels")
			}
			if f.codeBits < 2 || f.codeBits > 8 {
				return nil, fmt.Errorf("damaged: codes of %d bits", f.codeBits)
			}
			return f, nil
		}
	}
}

// setPalette sets the colours. Those that are missing are black, but where there are none, or levels of gray in order,
// the indices are levels of gray, as in Pillow.
func (f *gifFile) setPalette(colours []byte) {
	ramp := true
	for i, v := range colours {
		ramp = ramp && int(v) == i/3
	}
	for i := range f.palette {
		if ramp {
			f.palette[i] = [3]uint8{uint8(i), uint8(i), uint8(i)}
		} else if 3*i < len(colours) {
			copy(f.palette[i][:], colours[3*i:])
		}
	}
}

// gifSize returns the size of the screen, and that of a screen which is too large whatever follows.
func gifSize(b []byte) (w, h int, err error) {
	if len(b) >= 10 {
		w, h = int(binary.LittleEndian.Uint16(b[6:])), int(binary.LittleEndian.Uint16(b[8:]))
		if int64(w)*int64(h) > MaxPixels {
			return w, h, nil
		}
	}
	f, err := readGIF(b)
	if err != nil {
		return 0, 0, err
	}
	return f.w, f.h, nil
}

// decodeGIF lays the first frame on a screen of the transparent index, or of index 0 where there is none, as Pillow
// does. The colour that the table gives for the transparent index is kept.
func decodeGIF(img *Image, b []byte, w, h int) error {
	f, err := readGIF(b)
	if err != nil {
		return err
	}
	var packed []byte
	for blocks := f.blocks; len(blocks) > 0 && blocks[0] != 0; {
		n := min(len(blocks), 1+int(blocks[0]))
		packed, blocks = append(packed, blocks[1:n]...), blocks[n:]
	}
	fw, fh := f.right-f.left, f.down-f.top
	indices := make([]uint8, fw*fh)
	codes := lzw.NewReader(bytes.NewReader(packed), lzw.LSB, f.codeBits)
	defer codes.Close()
	if _, err := io.ReadFull(codes, indices); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTruncated
	} else if err != nil {
		return errors.New("damaged pixel data")
	}
	img.resize(w, h)
	if fw != w || fh != h {
		for i := range w * h {
			copy(img.Pix[3*i:3*i+3], f.palette[f.fill][:])
		}
	}
	passes := [][2]int{{0, 1}}
	if f.interlaced {
		passes = [][2]int{{0, 8}, {4, 8}, {2, 4}, {1, 2}}
	}
	for _, p := range passes {
		for y := p[0]; y < fh; y += p[1] {
			out := img.Pix[3*((f.top+y)*w+f.left):]
			for x, v := range indices[:fw] {
				copy(out[3*x:3*x+3], f.palette[v][:])
			}
			indices = indices[fw:]
		}
	}
	return nil
}
