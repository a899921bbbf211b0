package picture

import (
	"errors"
	"fmt"

	"github.com/ditrun/ditrun/data/picture/codec"
)

// MaxPixels is Pillow's hard limit against decompression bombs.
const MaxPixels = 2 * 89478485

// format is a picture format known by the first bytes of its files.
type format struct {
	name   string
	magic  []string // ? stands for any byte
	size   func([]byte) (w, h int, err error)
	decode func(img *Image, b []byte, w, h int) error
	// bytes for each pixel that decoding takes at most, the three of the result included: the coefficients of a
	// progressive JPEG, 16 bits a channel, the canvas of an animation.
	bytes int64
}

var formats = []format{
	{"JPEG", []string{"\xff\xd8\xff"}, codec.JPEGSize, withCodec(codec.JPEG), 11},
	{"PNG", []string{"\x89PNG\r\n\x1a\n"}, codec.PNGSize, decodePNG, 11},
	{"GIF", []string{"GIF87a", "GIF89a"}, gifSize, decodeGIF, 5},
	{"BMP", []string{"BM"}, bmpSize, decodeBMP, 4},
	{"TIFF", []string{"II\x2a\x00", "MM\x00\x2a"}, tiffSize, decodeTIFF, 14},
	{"WebP", []string{"RIFF????WEBP"}, codec.WebPSize, withCodec(codec.WebP), 15},
	{"netpbm", []string{"P1", "P2", "P3", "P4", "P5", "P6"}, netpbmSize, decodeNetpbm, 4},
}

// Decoders names what pictures are decoded with, for manifests; versions of it that give the same pixels have the same
// name, which is that of the first of them. DecoderVersions says which are in use.
const Decoders = "libjpeg-turbo, libwebp, go image, golang.org/x/image"

// DecoderVersions words the versions of the linked libraries.
func DecoderVersions() string {
	return codec.JPEGVersion() + ", " + codec.ZlibVersion() + ", " + codec.WebPVersion()
}

func withCodec(decode func(b, dst []byte, w, h int) error) func(img *Image, b []byte, w, h int) error {
	return func(img *Image, b []byte, w, h int) error {
		img.resize(w, h)
		return decode(b, img.Pix, w, h)
	}
}

// Decode turns the bytes of a picture file into RGB, as Pillow's convert("RGB") does: alpha is dropped without
// blending, gray and palettes are expanded, 16-bit colour keeps its high byte, 16-bit gray is cut off at 255, EXIF
// orientation (but for TIFF, which Pillow turns on opening) and colour profiles are ignored, and of several frames the
// first is taken. The format is told by content: JPEG, PNG, GIF, BMP, TIFF, WebP or netpbm. The result equals Pillow's
// bit for bit; a kind that is not read is an error that names it.
//
// A picture of more than 2 x 89,478,485 pixels is refused before it is decoded, as Pillow does; a decoder that panics
// gives an error.
func Decode(b []byte) (*Image, error) {
	img := new(Image)
	if err := DecodeInto(img, b); err != nil {
		return nil, err
	}
	return img, nil
}

// DecodeInto is Decode with a picture to overwrite, whose memory is used again where it suffices: a picture takes more
// time to clear and to collect than to crop.
func DecodeInto(img *Image, b []byte) error {
	h, err := ReadHeader(b, AsStored)
	if err != nil {
		return err
	}
	return h.Decode(img, b)
}

// A Header is what a file says of its picture before the picture is decoded.
type Header struct {
	// W and H are the sides as stored.
	W, H int

	format
	turn  int  // what the EXIF data say
	turns bool // and what is done
}

// ReadHeader looks at the bytes of a picture file, of which Decode then makes a picture in orientation o. Its
// errors are those of [Decode].
func ReadHeader(b []byte, o Orientation) (h Header, err error) {
	if len(b) == 0 {
		return h, errors.New("empty file")
	}
	if h.format, err = sniff(b); err != nil {
		return h, err
	}
	defer h.recover(&err)
	if h.W, h.H, err = h.size(b); err != nil {
		return h, fmt.Errorf("%s: %w", h.name, err)
	}
	if h.W < 1 || h.H < 1 || h.H > MaxPixels/h.W {
		return h, fmt.Errorf("%s of %d x %d pixels: want 1 to %d", h.name, h.W, h.H, MaxPixels)
	}
	h.turn = exifOrientation(h.name, b)
	h.turns = h.turn != upright && o == ByEXIF
	return h, nil
}

// Format names the format, such as JPEG.
func (h *Header) Format() string { return h.name }

// Oriented says whether the picture is not stored upright, as its EXIF data say. Some are only known to whoever reads
// the whole file.
func (h *Header) Oriented() bool { return h.turn > upright }

// FormatOf names the format of a picture file, such as JPEG, "" where it is none that can be read.
func FormatOf(b []byte) string {
	f, err := sniff(b)
	if err != nil {
		return ""
	}
	return f.name
}

// Memory is how many bytes Decode takes at most.
func (h *Header) Memory() int64 {
	pixels := int64(h.W) * int64(h.H)
	memory := pixels * h.bytes
	if h.turns { // a second picture
		memory += 3 * pixels
	}
	return memory
}

// Decode overwrites img with the picture in b, whose header is h.
func (h *Header) Decode(img *Image, b []byte) (err error) {
	img.Clipped = false
	defer h.recover(&err)
	if err := h.format.decode(img, b, h.W, h.H); err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	if h.turns {
		*img = *orient(img, h.turn)
	}
	img.Oriented = h.turn != upright
	return nil
}

// recover makes an error of a decoder's panic.
func (h *Header) recover(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s decoder: panic: %v", h.name, r)
	}
}

func sniff(b []byte) (format, error) {
	for _, f := range formats {
		for _, m := range f.magic {
			if matches(b, m) {
				return f, nil
			}
		}
	}
	return format{}, otherKindOf(b)
}

func matches(b []byte, magic string) bool {
	if len(b) < len(magic) {
		return false
	}
	for i := range len(magic) {
		if magic[i] != '?' && magic[i] != b[i] {
			return false
		}
	}
	return true
}

func decodePNG(img *Image, b []byte, w, h int) (err error) {
	img.resize(w, h)
	img.Clipped, err = codec.PNG(b, img.Pix, w, h)
	return err
}
