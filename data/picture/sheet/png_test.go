package sheet

import (
	"bytes"
	"errors"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTexts(t *testing.T) {
	texts := []Text{{"Software", "ditrun v1.0"}, {"Description", "ditrun sample --prompt '\u732b, \u00e4'"},
		{"parameters", "a\nb: 1"}, {"Comment", ""}}
	path := filepath.Join(t.TempDir(), "x.png")
	write := func() []byte {
		if err := WritePNG(path, disc(8, 1, 1), texts...); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	data := write()
	if !bytes.Equal(data, write()) {
		t.Error("the same picture and texts make other bytes")
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil || img.Bounds() != disc(8, 1, 1).Bounds() {
		t.Fatalf("%v, %v", img, err)
	}
	size, got, err := ReadTexts(bytes.NewReader(data))
	if err != nil || !slices.Equal(got, texts) || size != img.Bounds().Size() {
		t.Errorf("read %q of %v (%v)", got, size, err)
	}
	// Damage is found, whatever is damaged, or no text is another for it; one whose chunk is no text any more is gone.
	for at := range data {
		bad := bytes.Clone(data)
		bad[at] ^= 1
		_, got, err := ReadTexts(bytes.NewReader(bad))
		for _, text := range got {
			if !slices.Contains(texts, text) {
				t.Errorf("byte %d: read %q (%v)", at, text, err)
			}
		}
		if err == nil && len(got) < len(texts)-1 {
			t.Errorf("byte %d: %d texts are left", at, len(got))
		}
	}
	bad := bytes.Replace(data, []byte("ditrun v1.0"), []byte("ditrun v2.0"), 1)
	if _, _, err := ReadTexts(bytes.NewReader(bad)); err == nil {
		t.Error("a changed text is read")
	}
	for n := range bytes.Index(data, []byte("IDAT")) {
		if _, _, err := ReadTexts(bytes.NewReader(data[:n])); err == nil {
			t.Errorf("%d bytes are read", n)
		}
	}
	if _, _, err := ReadTexts(strings.NewReader("GIF89a" + strings.Repeat("x", 100))); !errors.Is(err, ErrNoPNG) {
		t.Errorf("error %v", err)
	}
	for _, keyword := range []string{"", " x", "x\n", "\u00e4", strings.Repeat("x", 80)} {
		if err := WritePNG(path, disc(8, 1, 1), Text{keyword, "x"}); err == nil {
			t.Errorf("keyword %q is written", keyword)
		}
	}
	// What cannot stand in a text does not break the file.
	if err := WritePNG(path, disc(8, 1, 1), Text{"Comment", "a\x00b\xff"}); err != nil {
		t.Fatal(err)
	}
	data, _ = os.ReadFile(path)
	if _, got, err = ReadTexts(bytes.NewReader(data)); err != nil || got[0].Text != "a\ufffdb\ufffd" {
		t.Errorf("read %q (%v)", got, err)
	}
}

// TestManyTexts: a file of ours or of others cannot fill the memory with texts.
func TestManyTexts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.png")
	for _, c := range []struct{ n, length, want int }{
		{8, maxText - 8, 3}, {3 * maxTexts / textCost, 0, maxTexts / (textCost + len("x\x00"))}, {1, maxText, 0},
	} {
		if err := WritePNG(path, disc(8, 1, 1), Text{"x", strings.Repeat("y", c.length)}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		chunk := data[headEnd : headEnd+12+len("x\x00")+c.length]
		data = slices.Concat(data[:headEnd], bytes.Repeat(chunk, c.n), data[headEnd+len(chunk):])
		if _, got, err := ReadTexts(bytes.NewReader(data)); err != nil || len(got) != c.want {
			t.Errorf("%d texts of %d bytes: %d are read (%v), want %d", c.n, c.length, len(got), err, c.want)
		}
	}
}

func TestIsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.png")
	if err := WritePNG(path, image.NewNRGBA(image.Rect(0, 0, 2, 3)), Text{"Software", "a test"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !IsWhole(path) {
		t.Fatalf("a picture is not whole (%v)", err)
	}
	for name, content := range map[string][]byte{"shorter": b[:len(b)-1], "empty": nil, "longer": append(b, 0),
		"no PNG": append([]byte("x"), b[1:]...)} {
		if err := os.WriteFile(path, content, 0o666); err != nil {
			t.Fatal(err)
		}
		if IsWhole(path) {
			t.Errorf("%s: whole", name)
		}
	}
	if IsWhole(path + "x") {
		t.Error("a file that is not there is whole")
	}
}
