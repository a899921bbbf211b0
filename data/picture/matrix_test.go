package picture

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"
)

// notRead are the files of the matrix that are refused, by pattern, and what the error must say. The first list holds
// what Pillow opens: it is all that it opens and Decode does not.
var notRead = []struct{ pattern, words string }{
	{"bmp-rle?.bmp", "BMP: compressed as RLE: not supported, convert it"},
	{"other-avif.jpg", "AVIF: not supported, convert it"},
	{"other-dds.jpg", "DDS: not supported, convert it"},
	{"other-j2k.jpg", "JPEG 2000: not supported, convert it"},
	{"other-jp2.jpg", "JPEG 2000: not supported, convert it"},
	{"other-psd.jpg", "PSD (Photoshop): not supported, convert it"},
	{"other-tga.jpg", "TGA: not supported, convert it"},
	{"pfm-gray.pfm", "netpbm PFM: not supported, convert it"},
	{"png-animated-part.png", "PNG: an animation whose first frame is not the whole picture"},
	{"png-fewer-rows.png", "PNG: truncated"},
	{"png-no-palette.png", "PNG: a palette of 0 colours"},
	{"tiff-*-cmyk-*.tif", "TIFF: CMYK: not supported, convert it"},
	{"tiff-*float*.tif", "TIFF: floating-point samples of 32 bits: not supported"},
	{"tiff-*-gray-?-2.tif", "TIFF: samples of 2 bits"},
	{"tiff-*-gray-?-4.tif", "TIFF: samples of 4 bits"},
	{"tiff-*-palette-[24].tif", "TIFF: samples of "},
	{"tiff-*-rgba-*-0.tif", "TIFF: an extra sample that is no alpha"},
	{"tiff-*-rgba-*-None.tif", "TIFF: an extra sample that is no alpha"},
	{"tiff-*-signed-16.tif", "TIFF: signed samples of 16 bits"},
	{"tiff-*-signed-8.tif", "TIFF: signed samples of 8 bits"},
	{"tiff-bigtiff.tif", "BigTIFF: not supported, convert it"},
	{"tiff-by-jpeg.tif", "TIFF: compressed as JPEG"},
	{"tiff-by-lzma.tif", "TIFF: compressed as LZMA"},
	{"tiff-by-zstd.tif", "TIFF: compressed as Zstandard"},
	{"tiff-cut.tif", "TIFF: invalid format: not enough pixel data"},
	{"tiff-dng.tif", "TIFF: a camera's raw picture (DNG)"},
	{"tiff-fill-2-0-1.tif", "TIFF: bits in reverse order"},
	{"tiff-fill-2-1-?.tif", "TIFF: bits in reverse order"},
	{"tiff-fill-2-lzw-like.tif", "TIFF: bits in reverse order"},
	{"tiff-five.tif", "TIFF: 5 samples a pixel"},
	{"tiff-g3-?-2d.tif", "TIFF: fax group 3 in two dimensions"},
	{"tiff-g3-?-aligned.tif", "TIFF: fax group 3 with fill bits"},
	{"tiff-huffman-*.tif", "TIFF: compressed as modified Huffman"},
	{"tiff-jpeg-rgb.tif", "TIFF: compressed as JPEG"},
	{"tiff-la.tif", "TIFF: gray with alpha"},
	{"tiff-lab.tif", "TIFF: Lab: not supported, convert it"},
	{"tiff-little-32.tif", "TIFF: samples of 32 bits"},
	{"tiff-little-gray-0-16.tif", "TIFF: 16-bit gray with white as zero"},
	{"tiff-little-gray-1-12.tif", "TIFF: samples of 12 bits"},
	{"tiff-lzma-*.tif", "TIFF: compressed as LZMA"},
	{"tiff-lzw-old.tif", "TIFF: compressed as the LZW of before TIFF 5"},
	{"tiff-packbits-predictor.tif", "TIFF: a predictor without LZW or Deflate"},
	{"tiff-palette-alpha.tif", "TIFF: 2 samples a pixel"},
	{"tiff-palette-short.tif", "TIFF: invalid format: invalid color index"},
	{"tiff-planar*.tif", "TIFF: planar samples (all of a channel, then the next): not supported, convert it"},
	{"tiff-raw-predictor.tif", "TIFF: a predictor without LZW or Deflate"},
	{"tiff-sample-count.tif", "TIFF: 3 samples a pixel of [8] bits"},
	{"tiff-thumbnail.tif", "TIFF: a small copy of a picture that is elsewhere in the file"},
	{"tiff-zstd-*.tif", "TIFF: compressed as Zstandard"},
}

// notReadByBoth are the files that Pillow refuses too.
var notReadByBoth = []struct{ pattern, words string }{
	{"bmp-2*.bmp", "BMP: 2 bits a pixel"},
	{"bmp-32-masks-8.bmp", "BMP: channels in the bits 3ff00000, 000ffc00 and 000003ff"},
	{"bmp-cut.bmp", "BMP: truncated"},
	{"bmp-header-16.bmp", "BMP: damaged: a header of 16 bytes"},
	{"bmp-jpeg.bmp", "BMP: a JPEG or PNG within"},
	{"gif-cut*.gif", "GIF: truncated"},
	{"gif-fewer-pixels.gif", "GIF: truncated"},
	{"jpeg-cut.jpg", "JPEG: truncated"},
	{"jpeg-lossless.jpg", "JPEG: lossless or hierarchical coding (c3): not supported, convert it"},
	{"other-apple.jpg", "AppleDouble, a ._ file of macOS: delete it"},
	{"other-avi.jpg", "not a picture but video (AVI)"},
	{"other-avif-cut.jpg", "AVIF: not supported, convert it"},
	{"other-cr2.jpg", "TIFF: a camera's raw picture (CR2)"},
	{"other-cr3.jpg", "a camera's raw picture (CR3): not supported"},
	{"other-dicom.jpg", "DICOM: not supported"},
	{"other-empty.jpg", "empty file"},
	{"other-eps.jpg", "EPS (PostScript): not supported"},
	{"other-exr.jpg", "OpenEXR: not supported"},
	{"other-gzip.jpg", "not a picture but gzip: unpack it"},
	{"other-hei[cf].jpg", "HEIC: not supported, convert it, for example with ImageMagick: magick IN OUT.png"},
	{"other-html*.jpg", "not a picture but a web page: a download saved it instead of the picture"},
	{"other-http.jpg", "not a picture but the reply of a web server"},
	{"other-ico.jpg", "ICO: not supported"},
	{"other-json.jpg", `not a picture but JSON, "{\"error\": \"no such file\"}": a download saved it`},
	{"other-jxl*.jpg", "JPEG XL: not supported"},
	{"other-lfs.jpg", "a pointer of Git LFS: fetch the picture itself with git lfs pull"},
	{"other-mdat.jpg", "video (QuickTime)"},
	{"other-mkv.jpg", "video (Matroska or WebM)"},
	{"other-mov.jpg", "video (MP4 or QuickTime)"},
	{"other-mp4.jpg", "video (MP4 or QuickTime)"},
	{"other-noise.jpg", "not a picture: starts with "},
	{"other-npy.jpg", "not a picture but NumPy"},
	{"other-parquet.jpg", "not a picture but parquet"},
	{"other-pdf.jpg", "PDF: not supported"},
	{"other-png-text-mode.jpg", "a PNG whose line ends were changed on the way"},
	{"other-r[aw][f2].jpg", "a camera's raw picture: not supported"},
	{"other-s3.jpg", "not a picture but an error of a storage server (XML), "},
	{"other-svg*.jpg", "SVG: not supported"},
	{"other-tar.jpg", "not a picture but tar: unpack it"},
	{"other-text.jpg", `not a picture: starts with 68 65 6c 6c 6f 2c 20 77 ("hello, world")`},
	{"other-xml.jpg", "not a picture but XML"},
	{"other-zeros.jpg", "not a picture: only zeros"},
	{"other-zip.jpg", "not a picture but ZIP: unpack it"},
	{"pam.pam", "netpbm PAM: not supported"},
	{"p[bgp]m-*cut.p[bgp]m", "netpbm: truncated"},
	{"pbm-plain-letters.pbm", "netpbm: damaged: '2' where 0 or 1 should be"},
	{"p[gp]m-0.p[gp]m", "netpbm: levels up to 0: want 1 to 65535"},
	{"p[gp]m-65536.p[gp]m", "netpbm: levels up to 65536: want 1 to 65535"},
	{"p[gp]m-plain-above.p[gp]m", "netpbm: damaged: a level of "},
	{"p[gp]m-plain-letters.p[gp]m", `netpbm: damaged: "abc" where a number should be`},
	{"pfm-colour.pfm", "netpbm PFM: not supported"},
	{"png-3-bits.png", "PNG: 3 bits a sample with colour type 0"},
	{"png-bad-filter.png", "PNG: a filter that is not known"},
	{"png-cut*.png", "PNG: truncated"},
	{"png-fewer-pixels.png", "PNG: fewer pixels than the header says"},
	{"png-filters.png", "PNG: a kind of filters, 9, that is not known"},
	{"png-header-crc.png", "PNG: damaged: the checksum of a chunk IHDR is wrong"},
	{"png-idat-apart.png", "PNG: truncated: the pixel data end before the picture does"},
	{"png-long-palette.png", "PNG: a palette of 257 colours"},
	{"png-no-chunk.png", "where a chunk should begin"},
	{"png-no-pixels.png", "PNG: no pixel data"},
	{"png-palette-crc.png", "PNG: damaged: the checksum of a chunk PLTE is wrong"},
	{"png-text-crc.png", "PNG: damaged: the checksum of a chunk tEXt is wrong"},
	{"png-text-cut-behind.png", "PNG: truncated: the file ends within a chunk tEXt"},
	{"png-wrong-adler.png", "PNG: damaged pixel data"},
	{"tiff-big-32.tif", "TIFF: samples of 32 bits"},
	{"tiff-*-double.tif", "TIFF: floating-point samples of 64 bits"},
	{"tiff-big-gray-0-16.tif", "TIFF: 16-bit gray with white as zero"},
	{"tiff-*-gray-?-12.tif", "TIFF: samples of 12 bits"},
	{"tiff-*-palette-16.tif", "TIFF: samples of 16 bits"},
	{"tiff-*-rgb-1.tif", "TIFF: samples of 1 bit:"},
	{"tiff-*-rgb-4.tif", "TIFF: samples of 4 bits"},
	{"tiff-bigtiff-big.tif", "BigTIFF: not supported"},
	{"tiff-by-jpeg2000.tif", "TIFF: compressed as JPEG 2000"},
	{"tiff-by-jpegxl.tif", "TIFF: compressed as JPEG XL"},
	{"tiff-by-lerc.tif", "TIFF: compressed as LERC"},
	{"tiff-by-png.tif", "TIFF: compressed in way 34933"},
	{"tiff-by-webp.tif", "TIFF: compressed as WebP"},
	{"tiff-deflate-cut.tif", "TIFF: truncated"},
	{"tiff-deflate-few.tif", "TIFF: invalid format: not enough pixel data"},
	{"tiff-fill-2-0-8.tif", "TIFF: bits in reverse order"},
	{"tiff-mask.tif", "TIFF: a mask: not supported"},
	{"tiff-mosaic.tif", "TIFF: the mosaic of a camera (raw): not supported"},
	{"tiff-sample-count-wrong.tif", "TIFF: 1 sample a pixel of [8 8 8] bits"},
	{"tiff-ycbcr.tif", "TIFF: YCbCr: not supported"},
	{"webp-cut.webp", "WebP: truncated or damaged"},
}

// readByUsAlone are the files that Pillow refuses and Decode does not, and why.
var readByUsAlone = map[string]string{
	"bmp-16-444.bmp": "masks of four bits are as clear as those of five",
}

// TestDecodeMatrix holds small files of every kind of the formats that are met as pictures to Pillow (made by
// testdata/decode/matrix.py): the same pixels bit for bit, or an error that names the kind.
func TestDecodeMatrix(t *testing.T) {
	z := edgeCases(t, "matrix.zip")
	read := func(name string) []byte {
		b, err := fs.ReadFile(z, name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	met := map[string]bool{}
	words := func(list []struct{ pattern, words string }, name string) (string, bool) {
		for _, r := range list {
			if ok, err := path.Match(r.pattern, name); err != nil {
				t.Fatal(err)
			} else if ok {
				met[r.pattern] = true
				return r.words, true
			}
		}
		return "", false
	}
	equal, formats := 0, map[string]bool{}
	for line := range strings.Lines(string(read("matrix.txt"))) {
		name, want, _ := strings.Cut(strings.TrimSpace(line), " ")
		refused, list := want == "refused", notRead
		if refused {
			list = notReadByBoth
		}
		expected, listed := words(list, name)
		img, err := Decode(read(name))
		switch {
		case err != nil && !listed:
			t.Errorf("%s: %v; Pillow: %s, and it is on no list", name, err, want)
		case err != nil && !strings.Contains(err.Error(), expected):
			t.Errorf("%s: error %v, want %q", name, err, expected)
		case err != nil:
		case listed:
			t.Errorf("%s: decoded, and on the list of what is not read (Pillow: %s)", name, want)
		case refused:
			if readByUsAlone[name] == "" {
				t.Errorf("%s: decoded, Pillow refuses it", name)
			}
		default:
			if got := fmt.Sprintf("%d %d %x", img.W, img.H, sha256.Sum256(img.Pix)); got != want {
				t.Errorf("%s: other pixels than Pillow's", name)
			}
			equal++
			formats[strings.TrimPrefix(path.Ext(name), ".")] = true
		}
	}
	for _, r := range append(notRead, notReadByBoth...) {
		if !met[r.pattern] {
			t.Errorf("%s: no such file in the matrix", r.pattern)
		}
	}
	if equal < 250 || len(formats) < 9 {
		t.Errorf("%d files of %d formats compared, want at least 250 of 9", equal, len(formats))
	}
}
