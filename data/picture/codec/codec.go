// Package codec decodes JPEG, PNG and WebP with libjpeg-turbo, zlib and libwebp, the libraries that Pillow uses, so
// that pixels equal Pillow's bit for bit: the accurate integer DCT, interpolated chroma, and an error where input
// ends early. They are linked statically from third_party/codecs, where the build puts them; with the tag installed
// from where `make install` puts them, by pkg-config; where neither is, those of the system are linked.
package codec

// #cgo CFLAGS: -O3
// #cgo !installed CFLAGS: -I${SRCDIR}/../../../third_party/codecs/include
// #cgo !installed LDFLAGS: -L${SRCDIR}/../../../third_party/codecs/lib -ljpeg -lwebpdemux -lwebp -lz -lm
// #cgo installed pkg-config: ditrun
// #cgo noescape dit_jpeg
// #cgo nocallback dit_jpeg
// #cgo noescape dit_png
// #cgo nocallback dit_png
// #cgo noescape dit_webp
// #cgo nocallback dit_webp
// #include "codec.h"
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// JPEGVersion is the version of libjpeg-turbo, for the record.
func JPEGVersion() string { return "libjpeg-turbo " + C.GoString(C.dit_jpeg_version()) }

// WebPVersion is the version of libwebp.
func WebPVersion() string {
	v := int(C.dit_webp_version())
	return fmt.Sprintf("libwebp %d.%d.%d", v>>16, v>>8&255, v&255)
}

// JPEGSize returns the size in pixels that the header of a JPEG file gives.
func JPEGSize(b []byte) (w, h int, err error) { return call(cJPEG, b, nil, 0, 0) }

// JPEG decodes a JPEG file of w x h pixels, as JPEGSize gives them, into dst as RGB, [h, w, 3]. Gray is replicated;
// four components are taken as inverted CMYK or YCCK, as Adobe's programs store them, and converted with Pillow's
// integer arithmetic. Input that ends before the end marker is an error; damage that libjpeg can step over is not.
func JPEG(b, dst []byte, w, h int) error {
	_, _, err := call(cJPEG, b, dst, w, h)
	return err
}

// WebPSize returns the size in pixels of the canvas of a WebP file.
func WebPSize(b []byte) (w, h int, err error) { return call(cWebP, b, nil, 0, 0) }

// WebP decodes the first frame of a WebP file of w x h pixels into dst as RGB, [h, w, 3]. Alpha is dropped.
func WebP(b, dst []byte, w, h int) error {
	_, _, err := call(cWebP, b, dst, w, h)
	return err
}

type decoder func(b *C.uint8_t, n C.size_t, dst *C.uint8_t, w, h *C.int, message *C.char) C.int

func cJPEG(b *C.uint8_t, n C.size_t, dst *C.uint8_t, w, h *C.int, message *C.char) C.int {
	return C.dit_jpeg(b, n, dst, w, h, message)
}

func cWebP(b *C.uint8_t, n C.size_t, dst *C.uint8_t, w, h *C.int, message *C.char) C.int {
	return C.dit_webp(b, n, dst, w, h, message)
}

// call decodes b to dst, or only looks at its size where dst is nil.
func call(f decoder, b, dst []byte, w, h int) (int, int, error) {
	if len(b) == 0 {
		return 0, 0, errors.New("empty file")
	}
	if dst != nil && (w < 1 || h < 1 || len(dst) != 3*w*h) {
		return 0, 0, fmt.Errorf("room for %d samples, want 3 x %d x %d", len(dst), w, h)
	}
	var message [C.DIT_MESSAGE]C.char
	cw, ch := C.int(w), C.int(h)
	ok := f((*C.uint8_t)(unsafe.SliceData(b)), C.size_t(len(b)), (*C.uint8_t)(unsafe.SliceData(dst)), &cw, &ch,
		&message[0])
	if ok == 0 {
		return 0, 0, errors.New(C.GoString(&message[0]))
	}
	return int(cw), int(ch), nil
}
