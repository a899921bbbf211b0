package picture

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// convert is the error for a kind of picture that is not read.
func convert(kind string) error {
	return fmt.Errorf("%s: not supported, convert it, for example with ImageMagick: magick IN OUT.png", kind)
}

// plain makes an error of package tiff one of ours.
func plain(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errTruncated
	}
	return errors.New(strings.TrimPrefix(err.Error(), "tiff: "))
}

// otherKind is something other than a picture, known by bytes at an offset of the file.
type otherKind struct {
	name string
	at   int
	any  []string
	// hint says what to do, "" for a picture to convert.
	hint string
}

const (
	aVideo        = "take pictures out of it, for example with ffmpeg -i IN %06d.png"
	anArchive     = "unpack it"
	aTable        = "take the pictures out of it"
	wrongDownload = "a download saved it instead of the picture: download it again"
)

var otherKinds = []otherKind{
	{"BigTIFF", 0, []string{"II\x2b\x00", "MM\x00\x2b"}, ""},
	{"JPEG 2000", 0, []string{"\x00\x00\x00\x0cjP  \r\n\x87\n", "\xff\x4f\xff\x51"}, ""},
	{"JPEG XL", 0, []string{"\xff\x0a", "\x00\x00\x00\x0cJXL \r\n\x87\n"}, ""},
	{"PSD (Photoshop)", 0, []string{"8BPS"}, ""},
	{"XCF (GIMP)", 0, []string{"gimp xcf"}, ""},
	{"PDF", 0, []string{"%PDF"}, ""},
	{"EPS (PostScript)", 0, []string{"%!PS", "\xc5\xd0\xd3\xc6"}, ""},
	{"DDS", 0, []string{"DDS "}, ""},
	{"ICO", 0, []string{"\x00\x00\x01\x00"}, ""},
	{"ICNS", 0, []string{"icns"}, ""},
	{"OpenEXR", 0, []string{"\x76\x2f\x31\x01"}, ""},
	{"Radiance HDR", 0, []string{"#?RADIANCE", "#?RGBE"}, ""},
	{"FITS", 0, []string{"SIMPLE  ="}, ""},
	{"DICOM", 128, []string{"DICM"}, ""},
	{"QOI", 0, []string{"qoif"}, ""},
	{"MNG", 0, []string{"\x8aMNG\r\n\x1a\n", "\x8bJNG\r\n\x1a\n"}, ""},
	{"netpbm PAM", 0, []string{"P7\n"}, ""},
	{"netpbm PFM", 0, []string{"Pf\n", "PF\n"}, ""},
	{"SGI", 0, []string{"\x01\xda"}, ""},
	{"Sun raster", 0, []string{"\x59\xa6\x6a\x95"}, ""},
	{"PCX", 0, []string{"\x0a\x05\x01", "\x0a\x02\x01", "\x0a\x03\x01"}, ""},
	{"XPM", 0, []string{"/* XPM"}, ""},
	{"XBM", 0, []string{"#define "}, ""},
	{"DjVu", 0, []string{"AT&TFORM"}, ""},
	{"BPG", 0, []string{"BPG\xfb"}, ""},
	{"FLIF", 0, []string{"FLIF"}, ""},
	{"WMF", 0, []string{"\xd7\xcd\xc6\x9a"}, ""},
	{"a camera's raw picture", 0, []string{"FUJIFILMCCD-RAW", "IIRO", "IIRS", "MMOR", "IIU\x00",
		"II\x1a\x00\x00\x00HEAPCCDR", "FOVb"}, ""},
	{"a PNG whose line ends were changed on the way", 0, []string{"\x89PNG\n\x1a\n", "\x89PNG\r\r\n\x1a\r\n"},
		"copy it again as binary data"},
	{"video (AVI)", 8, []string{"AVI "}, aVideo},
	{"video (Matroska or WebM)", 0, []string{"\x1a\x45\xdf\xa3"}, aVideo},
	{"video (MPEG)", 0, []string{"\x00\x00\x01\xba", "\x00\x00\x01\xb3"}, aVideo},
	{"video (QuickTime)", 4, []string{"moov", "mdat", "wide"}, aVideo},
	{"ZIP", 0, []string{"PK\x03\x04", "PK\x05\x06"}, anArchive},
	{"gzip", 0, []string{"\x1f\x8b"}, anArchive},
	{"Zstandard", 0, []string{"\x28\xb5\x2f\xfd"}, anArchive},
	{"bzip2", 0, []string{"BZh"}, anArchive},
	{"xz", 0, []string{"\xfd7zXZ\x00"}, anArchive},
	{"7-Zip", 0, []string{"7z\xbc\xaf\x27\x1c"}, anArchive},
	{"RAR", 0, []string{"Rar!\x1a\x07"}, anArchive},
	{"tar", 257, []string{"ustar"}, anArchive},
	{"parquet", 0, []string{"PAR1"}, aTable},
	{"NumPy", 0, []string{"\x93NUMPY"}, aTable},
	{"HDF5", 0, []string{"\x89HDF\r\n\x1a\n"}, aTable},
	{"SQLite", 0, []string{"SQLite format 3\x00"}, aTable},
	{"AppleDouble, a ._ file of macOS", 0, []string{"\x00\x05\x16\x07", "\x00\x05\x16\x00"},
		"delete it, the picture is the file without ._"},
	{"a pointer of Git LFS", 0, []string{"version https://git-lfs"}, "fetch the picture itself with git lfs pull"},
	{"the reply of a web server", 0, []string{"HTTP/1.", "HTTP/2"}, wrongDownload},
}

// otherKindOf is the error for a file that is of no format that is read.
func otherKindOf(b []byte) error {
	for _, k := range otherKinds {
		for _, m := range k.any {
			if len(b) < k.at || !bytes.HasPrefix(b[k.at:], []byte(m)) {
				continue
			}
			if k.hint == "" {
				return convert(k.name)
			}
			return fmt.Errorf("not a picture but %s: %s", k.name, k.hint)
		}
	}
	switch {
	case len(b) >= 12 && string(b[4:8]) == "ftyp":
		return mediaKind(b)
	case len(bytes.Trim(b, "\x00")) == 0:
		return errors.New("not a picture: only zeros, lost in the download or on the disk: fetch it again")
	}
	if err := textKind(b); err != nil {
		return err
	}
	if tail := b[max(0, len(b)-18):]; bytes.HasPrefix(tail, []byte("TRUEVISION-XFILE")) {
		return convert("TGA")
	}
	text, head := "", b[:min(len(b), 64)]
	if !bytes.ContainsFunc(head, func(r rune) bool { return (r < '\t' || r > '\r') && (r < ' ' || r > '~') }) {
		text = " (" + brief(string(head)) + ")"
	}
	return fmt.Errorf("not a picture: starts with % x%s, want JPEG, PNG, GIF, BMP, TIFF, WebP or netpbm",
		head[:min(len(head), 8)], text)
}

// mediaKind tells the files of ISO's media format apart by their brands.
func mediaKind(b []byte) error {
	end := min(len(b), 256, int(b[2])<<8|int(b[3]))
	var brands []string
	for at := 8; at+4 <= end; at += 4 {
		if at != 12 { // a version
			brands = append(brands, string(b[at:at+4]))
		}
	}
	for _, k := range []struct {
		name, of string
	}{
		{"AVIF", "avif avis"},
		{"HEIC", "heic heix heim heis hevc hevx hevm hevs mif1 msf1"},
		{"a camera's raw picture (CR3)", "crx "},
		{"JPEG 2000", "jp2 jpx "},
	} {
		for _, brand := range brands {
			if strings.Contains(k.of, brand) {
				return convert(k.name)
			}
		}
	}
	return fmt.Errorf("not a picture but video (MP4 or QuickTime): %s", aVideo)
}

// textKind is the error for what servers and tools write where a picture should be, nil for other contents.
func textKind(b []byte) error {
	head := string(bytes.TrimLeft(bytes.TrimPrefix(b[:min(len(b), 4096)], []byte("\xef\xbb\xbf")), " \t\r\n"))
	lower := strings.ToLower(head)
	begins := func(words ...string) bool {
		for _, w := range words {
			if strings.HasPrefix(lower, w) {
				return true
			}
		}
		return false
	}
	xml := begins("<?xml", "<!--", "<!doctype")
	switch {
	case begins("<svg") || xml && strings.Contains(lower, "<svg"):
		return convert("SVG")
	case begins("<!doctype html", "<html", "<head", "<body", "<script", "<title", "<meta"),
		xml && strings.Contains(lower, "<html"):
		return errors.New("not a picture but a web page: " + wrongDownload)
	case begins("<error") || xml && strings.Contains(lower, "<error"):
		return fmt.Errorf("not a picture but an error of a storage server (XML), %s: %s", brief(head), wrongDownload)
	case begins("<?xml"):
		return fmt.Errorf("not a picture but XML, %s: %s", brief(head), wrongDownload)
	case begins("{", "[") && (len(b) > 1<<20 || json.Valid(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))):
		return fmt.Errorf("not a picture but JSON, %s: %s", brief(head), wrongDownload)
	}
	return nil
}

// brief is the beginning of a text, in one line.
func brief(text string) string {
	const most = 60
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if r := []rune(text); len(r) > most {
		return fmt.Sprintf("%q...", string(r[:most]))
	}
	return fmt.Sprintf("%q", text)
}
