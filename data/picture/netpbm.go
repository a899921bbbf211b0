package picture

import (
	"errors"
	"fmt"
	"math"
)

// netpbm is the header of a PBM, PGM or PPM picture.
type netpbm struct {
	kind   byte // '1' to '6'
	w, h   int
	maxval int
	pixels []byte
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// token cuts off the first word of b. Comments end with their line and are skipped, as in Pillow.
func token(b []byte, most int) (word, after []byte) {
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '#':
			for i < len(b) && b[i] != '\n' && b[i] != '\r' {
				i++
			}
		case !isSpace(c):
			if word = append(word, c); len(word) > most {
				return word, b[i+1:]
			}
		case len(word) > 0:
			return word, b[i+1:]
		}
	}
	return word, nil
}

// number reads a word of at most ten digits.
func number(b []byte) (v int, after []byte, err error) {
	word, after := token(b, 10)
	if len(word) == 0 {
		return 0, nil, errTruncated
	}
	for _, c := range word {
		if c < '0' || c > '9' || len(word) > 10 {
			return 0, nil, fmt.Errorf("damaged: %q where a number should be", word)
		}
		v = 10*v + int(c-'0')
	}
	return v, after, nil
}

func readNetpbm(b []byte) (p netpbm, err error) {
	if len(b) < 3 || !isSpace(b[2]) {
		return p, errors.New("damaged header")
	}
	p.kind, p.pixels, p.maxval = b[1], b[3:], 1
	for _, v := range []*int{&p.w, &p.h, &p.maxval} {
		if v == &p.maxval && p.bitmap() {
			break
		}
		if *v, p.pixels, err = number(p.pixels); err != nil {
			return p, err
		}
	}
	if p.maxval < 1 || p.maxval > 65535 {
		return p, fmt.Errorf("levels up to %d: want 1 to 65535", p.maxval)
	}
	return p, nil
}

func (p *netpbm) bitmap() bool { return p.kind == '1' || p.kind == '4' }

func netpbmSize(b []byte) (w, h int, err error) {
	p, err := readNetpbm(b)
	return p.w, p.h, err
}

// decodeNetpbm scales levels to 255. Those of gray with more than 8 bits are scaled to 65535 and cut off at 255.
func decodeNetpbm(img *Image, b []byte, w, h int) error {
	p, err := readNetpbm(b)
	if err != nil {
		return err
	}
	channels := 1
	if p.kind == '3' || p.kind == '6' {
		channels = 3
	}
	n, size := w*h*channels, 1 // samples, and bytes of each at least
	if p.kind >= '5' && p.maxval > 255 {
		size = 2
	}
	need := int64(n) * int64(size)
	switch p.kind {
	case '2', '3':
		need = 2*int64(n) - 1
	case '4':
		need = int64((w+7)/8) * int64(h)
	}
	if int64(len(p.pixels)) < need {
		return errTruncated
	}
	img.resize(w, h)
	if p.kind == '6' && p.maxval == 255 {
		copy(img.Pix, p.pixels)
		return nil
	}
	levels := p.levels(channels)
	sample := func(i int) (int, error) { return int(p.pixels[i]), nil }
	switch {
	case p.kind == '1':
		sample = p.plainBit
	case p.kind <= '3':
		sample = p.plainLevel
	case p.kind == '4':
		sample = func(i int) (int, error) {
			return int(p.pixels[i/w*((w+7)/8)+i%w/8] >> (7 - i%w%8) & 1), nil
		}
	case size == 2:
		sample = func(i int) (int, error) { return int(p.pixels[2*i])<<8 | int(p.pixels[2*i+1]), nil }
	}
	for i := range n {
		v, err := sample(i)
		if err != nil {
			return err
		}
		level := levels[min(v, len(levels)-1)]
		if level > 255 {
			level, img.Clipped = 255, true
		}
		if channels == 3 {
			img.Pix[i] = uint8(level)
		} else {
			img.Pix[3*i], img.Pix[3*i+1], img.Pix[3*i+2] = uint8(level), uint8(level), uint8(level)
		}
	}
	return nil
}

// levels are what the levels of the file become, the largest for all above maxval.
func (p *netpbm) levels(channels int) []int {
	if p.bitmap() {
		return []int{255, 0}
	}
	top := 255.0
	if channels == 1 && p.maxval > 255 {
		top = 65535
	}
	list := make([]int, p.maxval+1)
	for v := range list {
		list[v] = int(math.RoundToEven(float64(v) / float64(p.maxval) * top))
	}
	return list
}

// plainBit reads the next bit of a plain file, which needs no space between them.
func (p *netpbm) plainBit(int) (int, error) {
	for len(p.pixels) > 0 {
		c := p.pixels[0]
		switch p.pixels = p.pixels[1:]; {
		case c == '0' || c == '1':
			return int(c - '0'), nil
		case c == '#':
			for len(p.pixels) > 0 && p.pixels[0] != '\n' && p.pixels[0] != '\r' {
				p.pixels = p.pixels[1:]
			}
		case !isSpace(c):
			return 0, fmt.Errorf("damaged: %q where 0 or 1 should be", c)
		}
	}
	return 0, errTruncated
}

func (p *netpbm) plainLevel(int) (v int, err error) {
	if v, p.pixels, err = number(p.pixels); err == nil && v > p.maxval {
		err = fmt.Errorf("damaged: a level of %d, the highest is %d", v, p.maxval)
	}
	return v, err
}
