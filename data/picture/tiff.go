package picture

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"slices"

	"golang.org/x/image/tiff"

	"github.com/ditrun/ditrun/internal/names"
)

// tiffDirectory is the first directory of a TIFF file, of which the picture is read.
type tiffDirectory struct {
	b      []byte
	order  binary.ByteOrder
	values map[int][]int // by tag: the first of them, of integer tags
}

// Tags of TIFF 6.0, and of its supplements.
const (
	tagSubfileType   = 254
	tagWidth         = 256
	tagHeight        = 257
	tagBits          = 258
	tagCompression   = 259
	tagPhotometric   = 262
	tagFillOrder     = 266
	tagStrips        = 273
	tagSamples       = 277
	tagPlanar        = 284
	tagT4Options     = 292
	tagT6Options     = 293
	tagPredictor     = 317
	tagTiles         = 324
	tagExtraSamples  = 338
	tagSampleFormat  = 339
	tagDNGVersion    = 50706
	compressionNone  = 1
	compressionG3    = 3
	compressionG4    = 4
	compressionLZW   = 5
	compressionAdobe = 8
	compressionZIP   = 32946
	compressionBits  = 32773
)

// tiffCompressions names those that are not read.
var tiffCompressions = map[int]string{
	2: "modified Huffman (CCITT RLE)", 6: "JPEG", 7: "JPEG", 9: "JBIG", 10: "JBIG", 32766: "NeXT RLE",
	32771: "modified Huffman (CCITT RLE)", 32809: "ThunderScan", 34661: "JBIG", 34676: "SGILog", 34677: "SGILog",
	34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP",
	50002: "JPEG XL", 52546: "JPEG XL",
}

// tiffColours names the kinds of colour that are not read.
var tiffColours = map[int]string{
	4: "a mask", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab", 32803: "the mosaic of a camera (raw)",
	32844: "SGILog", 32845: "SGILog", 34892: "the values of a camera (raw)",
}

// readTIFF reads the directory and says what the file is, if that is no picture that is read. What golang.org/x/image
// reads as Pillow does is let through; each other kind has its name here, so that nothing is read by chance.
func readTIFF(b []byte) (*tiffDirectory, error) {
	d := &tiffDirectory{b: b, order: binary.LittleEndian, values: map[int][]int{}}
	if len(b) < 8 {
		return nil, errTruncated
	}
	if b[0] == 'M' {
		d.order = binary.BigEndian
	}
	at := int64(d.order.Uint32(b[4:]))
	if at+2 > int64(len(b)) {
		return nil, errTruncated
	}
	n := int64(d.order.Uint16(b[at:]))
	if at+2+12*n > int64(len(b)) {
		return nil, errTruncated
	}
	for i := range n {
		e := b[at+2+12*i:]
		d.values[int(d.order.Uint16(e))] = d.integers(e)
	}
	if d.value(tagWidth, 0) < 1 || d.value(tagHeight, 0) < 1 {
		return nil, errors.New("damaged: no size")
	}
	if string(b[8:min(10, len(b))]) == "CR" {
		return nil, convert("a camera's raw picture (CR2)")
	}
	if kind := d.unread(); kind != "" {
		return nil, convert(kind)
	}
	return d, nil
}

var errTruncated = errors.New("truncated: the file ends before the picture does")

// integers returns the first integers of an entry of a directory, none where it holds others.
func (d *tiffDirectory) integers(e []byte) []int {
	const most = 16
	size := map[uint16]int{1: 1, 3: 2, 4: 4}[d.order.Uint16(e[2:])]
	count := int64(d.order.Uint32(e[4:]))
	from := e[8:12]
	if int64(size)*count > 4 {
		at := int64(d.order.Uint32(e[8:]))
		if at > int64(len(d.b)) {
			return nil
		}
		from = d.b[at:]
	}
	var list []int
	for i := range int(min(count, most)) {
		if size == 0 || (i+1)*size > len(from) {
			return list
		}
		switch v := from[i*size:]; size {
		case 1:
			list = append(list, int(v[0]))
		case 2:
			list = append(list, int(d.order.Uint16(v)))
		default:
			list = append(list, int(d.order.Uint32(v)))
		}
	}
	return list
}

// value is the first of a tag, otherwise where the file has none.
func (d *tiffDirectory) value(tag, otherwise int) int {
	if v := d.values[tag]; len(v) > 0 {
		return v[0]
	}
	return otherwise
}

// unread names the kind of a picture that is not read, "" for one that is.
func (d *tiffDirectory) unread() string {
	if _, isDNG := d.values[tagDNGVersion]; isDNG {
		return "a camera's raw picture (DNG)"
	}
	if d.value(tagSubfileType, 0)&1 != 0 {
		return "a small copy of a picture that is elsewhere in the file, as cameras' raw pictures (NEF, ARW) begin"
	}
	const yCbCr = 6 // named as such only where the compression is one that is read
	colour := d.value(tagPhotometric, 0)
	name, known := tiffColours[colour]
	switch {
	case known && colour != yCbCr:
		return name
	case colour != yCbCr && colour > 3:
		return fmt.Sprintf("colour of kind %d", colour)
	}
	if kind := d.unreadCompression(); kind != "" {
		return kind
	}
	if colour == yCbCr {
		return name
	}
	return cmp.Or(d.unreadSamples(), d.unreadPredictor())
}

// isFax says whether a picture is compressed as fax.
func (d *tiffDirectory) isFax() bool {
	c := d.value(tagCompression, compressionNone)
	return c == compressionG3 || c == compressionG4
}

// unreadCompression is that part of unread.
func (d *tiffDirectory) unreadCompression() string {
	compression := d.value(tagCompression, compressionNone)
	switch compression {
	case compressionNone, compressionAdobe, compressionZIP, compressionBits:
	case compressionLZW:
		at := d.value(tagStrips, d.value(tagTiles, 0))
		if at+1 < len(d.b) && d.b[at] == 0 && d.b[at+1]&1 != 0 {
			return "compressed as the LZW of before TIFF 5"
		}
	case compressionG3:
		switch options := d.value(tagT4Options, 0); {
		case options&1 != 0:
			return "fax group 3 in two dimensions"
		case options&4 != 0:
			return "fax group 3 with fill bits"
		case options&2 != 0:
			return "fax with uncompressed parts"
		}
	case compressionG4:
		if d.value(tagT6Options, 0)&2 != 0 {
			return "fax with uncompressed parts"
		}
	default:
		if name, ok := tiffCompressions[compression]; ok {
			return "compressed as " + name
		}
		return fmt.Sprintf("compressed in way %d", compression)
	}
	return ""
}

// bitsOfSamples are the bits of each sample of a pixel.
func (d *tiffDirectory) bitsOfSamples() []int {
	if bits := d.values[tagBits]; len(bits) > 0 {
		return bits
	}
	return []int{1}
}

// unreadSamples is that part of unread.
func (d *tiffDirectory) unreadSamples() string {
	samples, colour, fax := d.value(tagSamples, 1), d.value(tagPhotometric, 0), d.isFax()
	bits, formats := d.bitsOfSamples(), d.values[tagSampleFormat]
	switch {
	case d.value(tagPlanar, 1) != 1 && samples > 1:
		return "planar samples (all of a channel, then the next)"
	case slices.ContainsFunc(formats, func(f int) bool { return f == 3 || f == 6 }):
		return "floating-point samples of " + names.Plural(bits[0], "bit")
	case slices.ContainsFunc(formats, func(f int) bool { return f == 2 || f == 5 }):
		return "signed samples of " + names.Plural(bits[0], "bit")
	case slices.ContainsFunc(formats, func(f int) bool { return f != 1 }):
		return "samples of an unknown kind"
	case len(bits) != samples || slices.ContainsFunc(bits, func(b int) bool { return b != bits[0] }):
		return fmt.Sprintf("%s a pixel of %v bits", names.Plural(samples, "sample"), bits)
	case bits[0] != 1 && bits[0] != 8 && bits[0] != 16 || colour == 3 && bits[0] == 16 || colour == 2 && bits[0] == 1:
		return fmt.Sprintf("samples of %s", bitsOf(bits[0]))
	case fax && (bits[0] != 1 || samples != 1):
		return "fax of more than black and white"
	case colour == 0 && bits[0] == 16:
		return "16-bit gray with white as zero"
	case colour < 2 && samples == 2:
		return "gray with alpha"
	case colour != 2 && samples != 1, colour == 2 && samples != 3 && samples != 4:
		return names.Plural(samples, "sample") + " a pixel"
	case colour == 2 && samples == 4 && d.value(tagExtraSamples, 0) != 1 && d.value(tagExtraSamples, 0) != 2:
		return "an extra sample that is no alpha"
	case d.value(tagFillOrder, 1) != 1 && !fax:
		return "bits in reverse order"
	}
	return ""
}

// unreadPredictor is that part of unread.
func (d *tiffDirectory) unreadPredictor() string {
	compression := d.value(tagCompression, compressionNone)
	switch p := d.value(tagPredictor, 1); {
	case p == 1:
	case p == 3:
		return "the predictor of floating-point samples"
	case p != 2 || d.bitsOfSamples()[0] == 1:
		return fmt.Sprintf("predictor %d", p)
	case compression == compressionNone || compression == compressionBits:
		return "a predictor without LZW or Deflate"
	}
	return ""
}

func bitsOf(n int) string {
	if n == 1 {
		return "1 bit"
	}
	return fmt.Sprintf("%d bits", n)
}

// tiffSize returns the size in pixels of a TIFF picture.
func tiffSize(b []byte) (w, h int, err error) {
	d, err := readTIFF(b)
	if err != nil {
		return 0, 0, err
	}
	return d.value(tagWidth, 0), d.value(tagHeight, 0), nil
}

func decodeTIFF(img *Image, b []byte, _, _ int) error {
	d, err := readTIFF(b)
	if err != nil {
		return err
	}
	m, err := tiff.Decode(bytes.NewReader(b))
	if err != nil {
		return plain(err)
	}
	// Of a fax whose zero is black the decoder turns black and white.
	if gray, ok := m.(*image.Gray); ok && d.isFax() && d.value(tagPhotometric, 0) == 1 {
		for i := range gray.Pix {
			gray.Pix[i] = ^gray.Pix[i]
		}
	}
	toRGB(img, m)
	*img = *orient(img, tiffOrientation(b))
	return nil
}

// tiffOrientation returns the orientation that the first directory of a TIFF file gives, 1 (upright) where there is
// none.
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
