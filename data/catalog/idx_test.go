package catalog

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/store"
)

// idxFile returns an IDX file of bytes.
func idxFile(dims []int, elements []byte) []byte {
	b := []byte{0, 0, 8, byte(len(dims))}
	for _, d := range dims {
		b = binary.BigEndian.AppendUint32(b, uint32(d))
	}
	return append(b, elements...)
}

func openIDXAt(t testing.TB, location, split string) (Source, error) {
	t.Helper()
	set, err := store.Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	return openIDXSet(t.Context(), set, split)
}

var (
	idxPix     = []byte{0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25, 30, 31, 32, 33, 34, 35}
	idxFour    = idxFile([]int{4, 2, 3}, idxPix)
	idxFourLab = idxFile([]int{4}, []byte{1, 0, 2, 0})
)

func TestIDX(t *testing.T) {
	test, testLab := idxFile([]int{1, 2, 3}, idxPix[:6]), idxFile([]int{1}, []byte{0})
	for name, c := range map[string]struct {
		files map[string][]byte
		path  string
		split string
		n     int
	}{
		"plain": {map[string][]byte{"train-images-idx3-ubyte": idxFour, "train-labels-idx1-ubyte": idxFourLab}, "",
			"", 4},
		"gzip": {map[string][]byte{"train-images-idx3-ubyte.gz": datatest.Gzip(t, idxFour),
			"train-labels-idx1-ubyte.gz": datatest.Gzip(t, idxFourLab)}, "", "", 4},
		"gz by name": {map[string][]byte{"train-images-idx3-ubyte.gz": idxFour,
			"train-labels-idx1-ubyte": datatest.Gzip(t, idxFourLab)}, "", "", 4},
		"both forms": {map[string][]byte{"train-images-idx3-ubyte.gz": datatest.Gzip(t, idxFour),
			"train-images-idx3-ubyte": idxFour, "train-labels-idx1-ubyte": idxFourLab}, "", "", 4},
		"train first": {map[string][]byte{"train-images-idx3-ubyte": idxFour, "train-labels-idx1-ubyte": idxFourLab,
			"t10k-images-idx3-ubyte": test, "t10k-labels-idx1-ubyte": testLab}, "", "", 4},
		"test asked": {map[string][]byte{"train-images-idx3-ubyte": idxFour, "train-labels-idx1-ubyte": idxFourLab,
			"t10k-images-idx3-ubyte": test, "t10k-labels-idx1-ubyte": testLab}, "", "test", 1},
		"test alone": {map[string][]byte{"t10k-images-idx3-ubyte": test, "t10k-labels-idx1-ubyte": testLab}, "", "", 1},
		"any pair":   {map[string][]byte{"x.bin": idxFour, "y.bin": idxFourLab, "README": []byte("hi")}, "", "", 4},
		"file": {map[string][]byte{"train-images-idx3-ubyte": idxFour, "train-labels-idx1-ubyte": idxFourLab,
			"t10k-images-idx3-ubyte": test, "t10k-labels-idx1-ubyte": testLab}, "t10k-images-idx3-ubyte", "", 1},
	} {
		src, err := openIDXAt(t, filepath.Join(datatest.WriteFiles(t, c.files), c.path), c.split)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if src.Len() != c.n {
			t.Errorf("%s: %d samples, want %d", name, src.Len(), c.n)
		}
		if c.n != 4 {
			continue
		}
		if !slices.Equal(src.Classes(), []string{"0", "1", "2"}) {
			t.Errorf("%s: classes %v", name, src.Classes())
		}
		var got []Sample
		for i := range 4 {
			got = append(got, src.Sample(i))
		}
		if want := []Sample{{"00000001", 0}, {"00000003", 0}, {"00000000", 1}, {"00000002", 2}}; !slices.Equal(got,
			want) {
			t.Errorf("%s: samples %v, want %v", name, got, want)
		}
		img, err := src.Image(1)
		if err != nil {
			t.Fatal(err)
		}
		if img.W != 3 || img.H != 2 || !bytes.Equal(img.Pix[:6], []byte{30, 30, 30, 31, 31, 31}) || img.Pix[17] != 35 {
			t.Errorf("%s: picture 1 is %d x %d %v", name, img.W, img.H, img.Pix)
		}
	}
}

func TestIDXHashAndNames(t *testing.T) {
	open := func(images []byte, more map[string][]byte) Source {
		files := map[string][]byte{"a-images": images, "a-labels": idxFourLab}
		for k, v := range more {
			files[k] = v
		}
		src, err := Open(t.Context(), datatest.WriteFiles(t, files), Options{CacheDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	plain := open(idxFour, map[string][]byte{"classes.txt": []byte("cat\ndog\r\n\nemu\n")})
	if !slices.Equal(plain.Classes(), []string{"cat", "dog", "emu"}) {
		t.Errorf("classes %v", plain.Classes())
	}
	if h := open(datatest.Gzip(t, idxFour), nil).Hash(); h != plain.Hash() {
		t.Error("the hash depends on the compression")
	}
	other := slices.Clone(idxFour)
	other[len(other)-1]++
	if open(other, nil).Hash() == plain.Hash() {
		t.Error("other pictures have the same hash")
	}
}

func TestIDXBadInput(t *testing.T) {
	big := idxFile([]int{1 << 31, 1 << 31, 1 << 31}, nil)
	for name, c := range map[string]struct {
		images, labels []byte
		want           string
	}{
		"promise too large": {big, idxFourLab, "truncated: the header promises more"},
		"gzip promise":      {datatest.Gzip(t, big), idxFourLab, "truncated: the header promises more"},
		"too long": {append(slices.Clone(idxFour), 1), idxFourLab,
			"41 bytes, want 40 for dimensions [4 2 3]"},
		"gzip too long": {datatest.Gzip(t, append(slices.Clone(idxFour), 1)), idxFourLab,
			"goes on after the 24 elements"},
		"no pictures": {idxFile([]int{0, 2, 3}, nil), idxFourLab, "dimension 0 is 0"},
		"labels of others": {idxFour, idxFile([]int{3}, []byte{0, 1, 2}),
			"4 pictures in train-images-idx3-ubyte, 3 labels"},
		"no labels": {idxFour, []byte("x"),
			"train-images-idx3-ubyte has no labels beside it: want train-labels-idx1-ubyte"},
		"damaged gzip":       {damaged(datatest.Gzip(t, idxFour)), idxFourLab, "train-images-idx3-ubyte: "},
		"only 4 bytes":       {idxFour[:4], idxFourLab, "ends inside its header"},
		"gzip cut in middle": {datatest.Gzip(t, idxFour)[:40], idxFourLab, "truncated"},
	} {
		dir := datatest.WriteFiles(t,
			map[string][]byte{"train-images-idx3-ubyte": c.images, "train-labels-idx1-ubyte": c.labels})
		_, err := Open(t.Context(), dir, Options{CacheDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "open "+dir+": ") {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	dir := datatest.WriteFiles(t,
		map[string][]byte{"train-images-idx3-ubyte": idxFour, "train-labels-idx1-ubyte": idxFourLab,
			"classes.txt": []byte("one\n"), "text": []byte("x")})
	for path, want := range map[string]string{
		"":                        "classes.txt: 1 name, labels go up to 2",
		"train-labels-idx1-ubyte": "holds labels",
		"text":                    "an unknown kind of file",
		"nothing":                 "no such file or folder",
	} {
		if _, err := Open(t.Context(), filepath.Join(dir, path), Options{CacheDir: t.TempDir()}); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", path, err, want)
		}
	}
	// However short the file is cut, the answer is an error.
	for n := range len(idxFour) {
		dir := datatest.WriteFiles(t, map[string][]byte{"images-idx3": idxFour[:n], "labels-idx1": idxFourLab})
		if _, err := openIDXAt(t, dir, ""); err == nil {
			t.Errorf("cut at %d: no error", n)
		}
	}
}

func damaged(zipped []byte) []byte {
	zipped[len(zipped)-5] ^= 0xff // in the checksum
	return zipped
}
