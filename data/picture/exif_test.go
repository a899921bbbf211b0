package picture

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"strings"
	"testing"
)

// exifFiles are the files that testdata/orientation/make.py made, by name.
func exifFiles(t testing.TB) map[string][]byte {
	t.Helper()
	z, err := zip.OpenReader("testdata/orientation/pictures.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files := map[string][]byte{}
	for _, f := range z.File {
		if files[f.Name], err = fs.ReadFile(z, f.Name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// FuzzOrientation: whatever the bytes, there is an orientation, and no panic.
func FuzzOrientation(f *testing.F) {
	for name, b := range exifFiles(f) {
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
		if i := bytes.Index(b, []byte("II\x2a\x00")); i >= 0 {
			f.Add(b[i:])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := []int{orientationIn(b)}
		for _, format := range []string{"JPEG", "PNG", "WebP", "TIFF"} {
			got = append(got, exifOrientation(format, b))
		}
		for _, o := range got {
			if o < 1 || o > 8 {
				t.Errorf("orientation %d", o)
			}
		}
	})
}

// TestOddChunks: chunks of WebP begin at even places.
func TestOddChunks(t *testing.T) {
	b := exifFiles(t)["6.webp"]
	at := bytes.Index(b, []byte("EXIF"))
	odd := append(bytes.Clone(b[:at]), "JUNK\x01\x00\x00\x00x\x00"...)
	if got := exifOrientation("WebP", append(odd, b[at:]...)); got != 6 {
		t.Errorf("orientation %d after a chunk of one byte, want 6", got)
	}
}
