package picture

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The pictures in testdata/decode against what Pillow reads from them (made by the script beside them).
func TestDecodeGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/decode/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		want, err := hex.DecodeString(f[3])
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join("testdata/decode", f[0]))
		if err != nil {
			t.Fatal(err)
		}
		img, err := Decode(b)
		if err != nil {
			t.Errorf("%s: %v", f[0], err)
			continue
		}
		if strconv.Itoa(img.W) != f[1] || strconv.Itoa(img.H) != f[2] || len(img.Pix) != len(want) {
			t.Errorf("%s: %d x %d, want %s x %s", f[0], img.W, img.H, f[1], f[2])
			continue
		}
		for i := range want {
			if d := int(img.Pix[i]) - int(want[i]); d != 0 {
				t.Errorf("%s: sample %d is %d, want %d", f[0], i, img.Pix[i], want[i])
				break
			}
		}
		n++
	}
	if n < 20 {
		t.Errorf("%d pictures compared, want at least 20", n)
	}
}

// Files of every kind known to be treacherous against Pillow 12.1's pixels, cropped to 16: all samplings of chroma,
// arithmetic coding, ink, damage, orientation, first frames (made by bench/data/parity.py). What Pillow refuses is
// refused.
func TestDecodeEdgeCases(t *testing.T) {
	z := edgeCases(t, "edge.zip")
	read := func(name string) []byte {
		b, err := fs.ReadFile(z, name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	equal, refused := 0, 0
	for line := range strings.Lines(string(read("golden.txt"))) {
		f := strings.Fields(line)
		name, want := f[0], f[1]
		img, err := Decode(read(name))
		switch {
		case want == "refused" && err == nil:
			t.Errorf("%s: decoded, Pillow refuses it", name)
		case want == "refused":
			refused++
		case err != nil:
			t.Errorf("%s: %v", name, err)
		default:
			crop, err := CenterCrop(img, Square(16))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%x", sha256.Sum256(crop.Pix)); got != want {
				t.Errorf("%s: other pixels than Pillow's", name)
			}
			equal++
		}
	}
	if equal < 100 || refused < 15 {
		t.Errorf("%d pictures compared and %d refused, want at least 100 and 15", equal, refused)
	}
}

func edgeCases(t testing.TB, file string) fs.FS {
	t.Helper()
	z, err := zip.OpenReader(filepath.Join("testdata/decode", file))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { z.Close() })
	return z
}

func TestDecodeBadInput(t *testing.T) {
	var huge bytes.Buffer
	if err := png.Encode(&huge, image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		t.Fatal(err)
	}
	jpg, err := os.ReadFile("testdata/decode/444.jpg")
	if err != nil {
		t.Fatal(err)
	}
	// A GIF header of 65535 x 65535 pixels.
	bomb := []byte("GIF89a\xff\xff\xff\xff\x00\x00\x00")
	// A header of PNG with sides whose product does not fit into 64 bits with a sign.
	wide := bytes.Clone(huge.Bytes())
	copy(wide[16:], "\xff\xff\xff\xff\xff\xff\xff\xff")
	binary.BigEndian.PutUint32(wide[29:], crc32.ChecksumIEEE(wide[12:29]))
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"product": {wide, "PNG of 4294967295 x 4294967295 pixels: want 1 to"},
		"netpbm product": {[]byte("P6 9999999999 9999999999 255 "),
			"netpbm of 9999999999 x 9999999999 pixels: want 1 to"},
		"empty":            {nil, "empty file"},
		"text":             {[]byte("hello, world"), "not a picture: starts with 68 65"},
		"byte before SOI":  {append([]byte{0}, jpg...), "not a picture"},
		"truncated JPEG":   {jpg[:len(jpg)/2], "JPEG: "},
		"netpbm PAM":       {[]byte("P7\nWIDTH 1\n"), "netpbm PAM: not supported, convert it"},
		"netpbm of a line": {[]byte("P6 9999 9999 255 abc"), "netpbm: truncated"},
		"netpbm of text":   {[]byte("P2P networks"), "netpbm: damaged header"},
		"too many pixels":  {bomb, "65535 x 65535"},
		"PNG without body": {huge.Bytes()[:33], "PNG: "},
	} {
		_, err := Decode(c.b)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	// No prefix of any picture may crash a decoder.
	files, err := filepath.Glob("testdata/decode/*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < min(len(b), 400); n += 7 {
			if _, err := Decode(b[:n]); err != nil && strings.Contains(err.Error(), "panic") {
				t.Logf("%s cut at %d: %v", f, n, err)
			}
		}
	}
}

// A decoder's image type that toRGB does not know by name goes through its colour model.
func TestToRGBOther(t *testing.T) {
	m := image.NewUniform(color.NRGBA{10, 20, 30, 128})
	img := new(Image)
	toRGB(img, cropped{m})
	if !bytes.Equal(img.Pix, []byte{10, 20, 30, 10, 20, 30}) {
		t.Errorf("%v, want 10 20 30 twice", img.Pix)
	}
}

type cropped struct{ image.Image }

func (cropped) Bounds() image.Rectangle { return image.Rect(3, 4, 5, 5) }

func FuzzDecode(f *testing.F) {
	for _, set := range []fs.FS{os.DirFS("testdata/decode"), edgeCases(f, "edge.zip"), edgeCases(f, "matrix.zip")} {
		names, err := fs.Glob(set, "*.*")
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			b, err := fs.ReadFile(set, name)
			if err != nil {
				f.Fatal(err)
			}
			if len(b) < 1<<13 {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if f, err := sniff(b); err == nil {
			// Large pictures of a few bytes are legal, and slow.
			if w, h, err := f.size(b); err == nil && w*h > 1<<16 {
				t.Skip()
			}
		}
		img, err := Decode(b)
		if err == nil && (img.W < 1 || img.H < 1 || len(img.Pix) != 3*img.W*img.H) {
			t.Errorf("%d x %d with %d samples", img.W, img.H, len(img.Pix))
		}
	})
}

// TestMemoryOfFormats: what a decoder takes is known from the header of each kind, and is more than its result.
func TestMemoryOfFormats(t *testing.T) {
	for _, f := range formats {
		if f.bytes < 4 {
			t.Errorf("%s takes %d bytes a pixel", f.name, f.bytes)
		}
	}
}
