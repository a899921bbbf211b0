// Package datatest has what tests of several packages below data need: files, pictures and archives.
package datatest

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"image"
	"image/png"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// WriteFiles fills a new folder; a name may contain folders.
func WriteFiles(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Pattern is a pattern without repetition.
func Pattern(w, h int) *picture.Image {
	img := picture.NewImage(w, h)
	for y := range h {
		for x := range w {
			for c := range 3 {
				img.Pix[3*(y*w+x)+c] = uint8((7*x + 13*y + 29*c + x*y/17) * 31)
			}
		}
	}
	return img
}

// PNG encodes [Pattern].
func PNG(t testing.TB, w, h int) []byte {
	t.Helper()
	p := Pattern(w, h)
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		copy(m.Pix[4*i:], p.Pix[3*i:3*i+3])
		m.Pix[4*i+3] = 255
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A File is a member of an archive. It has no name of its own, so that literals need not name its fields.
type File = struct {
	Name string
	Body []byte
}

// Tar packs files; a name that ends in a slash is a folder.
func Tar(t testing.TB, files []File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Size: int64(len(f.Body)), Mode: 0o644, Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.Name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.Body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Gzip compresses b.
func Gzip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Zstd compresses b.
func Zstd(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// Contents returns the bytes of all files of a folder by name.
func Contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

// SameContents compares what [Contents] returned.
func SameContents(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s differs", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s should not be there", name)
		}
	}
}

// WithoutDescriptors calls f while no file can be opened; those that are open stay so.
func WithoutDescriptors(t *testing.T, f func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	}()
	f()
}

// CheckMarks: a file with a text is read the same with a byte order mark before it, and is named where it is UTF-16.
func CheckMarks(t *testing.T, name, path, text string, open func() ([]string, error), want []string) {
	t.Helper()
	for _, text := range []string{text, "\ufeff" + text} {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if got, err := open(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	utf16 := []byte{0xff, 0xfe}
	for _, c := range []byte(text) {
		utf16 = append(utf16, c, 0)
	}
	if err := os.WriteFile(path, utf16, 0o666); err != nil {
		t.Fatal(err)
	}
	if got, err := open(); err == nil || !strings.Contains(err.Error(), "text in UTF-16: want UTF-8") {
		t.Errorf("%s in UTF-16: %q, error %v", name, got, err)
	}
}

// FlipBit turns one bit of a file.
func FlipBit(t *testing.T, path string, bit int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bit/8] ^= 1 << (bit % 8)
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// PlaceOf is the first byte of a tensor in a shard.
func PlaceOf(t *testing.T, path, tensor string) int64 {
	t.Helper()
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, ok := f.Lookup(tensor)
	if !ok {
		t.Fatalf("%s: no tensor %s", path, tensor)
	}
	return info.Offset
}

// OrientedFiles are the pictures that data/picture/testdata/orientation/make.py made, by name, for tests of packages
// beside it.
func OrientedFiles(t testing.TB) map[string][]byte {
	t.Helper()
	z, err := zip.OpenReader(filepath.Join("..", "picture", "testdata", "orientation", "pictures.zip"))
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

// SpecialFiles makes a folder of class folders a and b. In a, between two good pictures, are things with names of
// pictures that are no files; errs is what loading them says, in order.
func SpecialFiles(t testing.TB) (dir string, errs []string) {
	t.Helper()
	p := PNG(t, 9, 8)
	dir = WriteFiles(t, map[string][]byte{"a/0.png": p, "a/9.png": p, "b/0.png": p})
	at := func(name string) string { return filepath.Join(dir, "a", name) }
	var failed []error
	failed = append(failed, os.Symlink("/nowhere/x.png", at("1.png")), os.Symlink("2.png", at("2.png")),
		syscall.Mkfifo(at("3.png"), 0o666), os.Symlink("/dev/zero", at("4.png")))
	listener, err := net.Listen("unix", at("5.png"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	return dir, []string{
		"load " + at("1.png") + ": a link to nothing: there is no /nowhere/x.png",
		"load " + at("2.png") + ": a link that leads back to itself through 2.png",
		"load " + at("3.png") + ": a FIFO, want a file",
		"load " + at("4.png") + ": a device, want a file",
		"load " + at("5.png") + ": a socket, want a file",
	}
}

// BadTree is a folder of three classes with bad pictures of every kind, whose paths it returns: class b has no other
// ones.
func BadTree(t testing.TB) (dir string, bad []string) {
	t.Helper()
	p := PNG(t, 9, 8)
	dir = WriteFiles(t, map[string][]byte{
		"a/0.png": p, "a/1.png": p[:len(p)/2], "a/3.png": p, "a/5.png": p, "b/0.png": []byte("none"), "b/1.png": nil,
		"c/0.png": p, "c/2.png": p, "c/3.png": p,
	})
	at := func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	if err := errors.Join(os.Symlink("/nowhere", at("a/2.png")), syscall.Mkfifo(at("a/4.png"), 0o666),
		os.Symlink("/dev/null", at("c/1.png"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a/1.png", "a/2.png", "a/4.png", "b/0.png", "b/1.png", "c/1.png"} {
		bad = append(bad, at(name))
	}
	return dir, bad
}
