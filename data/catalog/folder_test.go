package catalog

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

// The order of torchvision.datasets.ImageFolder for the same tree, listed with torchvision's own rules: within a class
// by folder path, then by file name, so that "a" comes before "a-b" and that before "a/b".
func TestFolderOrder(t *testing.T) {
	p := datatest.PNG(t, 3, 2)
	dir := datatest.WriteFiles(t, map[string][]byte{
		"dog/z.png": p, "dog/a/x.png": p, "dog/a-b/x.png": p, "dog/a/b/x.JPG": p, "dog/notes.txt": p,
		"Cat/2.jpeg": p, "Cat/10.webp": p, "readme.txt": p, "loose.png": p,
	})
	elsewhere := datatest.WriteFiles(t, map[string][]byte{"d/one.png": p, "two.png": p})
	if err := os.Symlink(filepath.Join(elsewhere, "d"), filepath.Join(dir, "emu")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(elsewhere, "two.png"), filepath.Join(elsewhere, "d", "link.png")); err != nil {
		t.Fatal(err)
	}
	src, err := Open(t.Context(), dir, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"Cat", "dog", "emu"}; !slices.Equal(src.Classes(), want) {
		t.Errorf("classes %v, want %v", src.Classes(), want)
	}
	var got []Sample
	for i := range src.Len() {
		got = append(got, src.Sample(i))
	}
	want := []Sample{{"10.webp", 0}, {"2.jpeg", 0}, {"z.png", 1}, {"a/x.png", 1}, {"a-b/x.png", 1}, {"a/b/x.JPG", 1},
		{"link.png", 2}, {"one.png", 2}}
	if !slices.Equal(got, want) {
		t.Errorf("samples %v, want %v", got, want)
	}
	for i := range src.Len() { // told by content: all are PNG, whatever their names say
		img, err := src.Image(i)
		if err != nil {
			t.Fatal(err)
		}
		if img.W != 3 || img.H != 2 || !bytes.Equal(img.Pix, datatest.Pattern(3, 2).Pix) {
			t.Errorf("sample %d: %d x %d", i, img.W, img.H)
		}
	}
	again, err := Open(t.Context(), dir, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dog", "z.png"), append(p, 0), 0o666); err != nil {
		t.Fatal(err)
	}
	changed, err := Open(t.Context(), dir, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if src.Hash() != again.Hash() || src.Hash() == changed.Hash() {
		t.Error("the hash must be that of names, labels and lengths")
	}
}

func TestFolderBadInput(t *testing.T) {
	p := datatest.PNG(t, 1, 1)
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"empty": {nil,
			"empty: want a folder of pictures (jpg, png, ...), tar archives, parquet or IDX files " +
				"(train-images-idx3-ubyte)"},
		"loose pictures": {map[string][]byte{"a.png": p, "b.png": p, "c/c.png": p},
			`2 pictures in no class folder, and only 1 in class folders such as "c": --unconditional takes all`},
		"only text":       {map[string][]byte{"a.txt": p}, "no pictures: want"},
		"class with none": {map[string][]byte{"a/a.png": p, "b/b.txt": p}, `class folder "b" holds no pictures (.jpg`},
		"latents":         {map[string][]byte{"manifest.json": p}, "holds encoded latents"},
	} {
		dir := datatest.WriteFiles(t, c.files)
		_, err := Open(t.Context(), dir, Options{CacheDir: t.TempDir()})
		if err == nil || !strings.HasPrefix(err.Error(), "open "+dir+": ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	_, err := Open(t.Context(), "data/x", Options{CacheDir: t.TempDir()})
	if err == nil || err.Error() != "open data/x: no such file or folder" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: error %v", err)
	}
	dir := datatest.WriteFiles(t, map[string][]byte{"a/a.png": p, "a/bad.png": p[:20], "a/sub/b.png": p})
	src, err := Open(t.Context(), dir, Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := src.Image(1); err == nil ||
		!strings.HasPrefix(err.Error(), "load "+filepath.Join(dir, "a/bad.png")+": PNG: ") {
		t.Errorf("bad picture: error %v", err)
	}
	if err := os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "a/sub/loop")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, Options{CacheDir: t.TempDir()}); err == nil ||
		!strings.Contains(err.Error(), "symbolic link to a folder above it") {
		t.Errorf("loop of links: error %v", err)
	}
}

// TestFolderKeepsIDs: what a class folder set was known by stays what it is, as latents are continued by it.
func TestFolderKeepsIDs(t *testing.T) {
	files := map[string][]byte{}
	for i, name := range []string{
		"10/a.png", "2/b.JPG", "2/sub/a.jpeg", "2/sub-b/a.jpeg", "Cat/x.y.webp", "cat/x.bmp",
		"M\u00e4use, gro\u00df/1 2.tiff", "\u732b/3.ppm", "cat/notes.txt", "readme.md", "cat/train/z.tif", "test/q.pgm",
	} {
		files[name] = make([]byte, 10+i)
	}
	src, err := Open(t.Context(), datatest.WriteFiles(t, files), Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range src.Len() {
		got = append(got, src.Classes()[src.Sample(i).Label]+"/"+src.Sample(i).Name)
	}
	want := []string{
		"10/a.png", "2/b.JPG", "2/sub/a.jpeg", "2/sub-b/a.jpeg", "Cat/x.y.webp", "M\u00e4use, gro\u00df/1 2.tiff",
		"cat/x.bmp", "cat/train/z.tif", "test/q.pgm", "\u732b/3.ppm",
	}
	if !slices.Equal(got, want) {
		t.Errorf("samples %q, want %q", got, want)
	}
	if want := "03587330970a5166e9c05bc8b730323561ceac4f2811ed7c9038a4bf06913dd0"; src.Hash() != want {
		t.Errorf("hash %s, want %s", src.Hash(), want)
	}
}
