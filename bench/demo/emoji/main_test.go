package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"testing"
)

// writePackage writes an archive as npm serves them.
func writePackage(t *testing.T, file string, members map[string][]byte) {
	t.Helper()
	var b bytes.Buffer
	packed := gzip.NewWriter(&b)
	w := tar.NewWriter(packed)
	for name, content := range members {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestUnpack(t *testing.T) {
	half := image.NewNRGBA(image.Rect(0, 0, 64, 64)) // red, half transparent at 0,0
	half.Set(0, 0, color.NRGBA{R: 255, A: 128})
	var picture bytes.Buffer
	if err := png.Encode(&picture, half); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, out := filepath.Join(dir, "emoji.tgz"), filepath.Join(dir, "pictures")
	writePackage(t, file, map[string][]byte{
		"package/emoji.json": []byte(`[
			{"short_name": "grin", "subcategory": "face-smiling", "image": "grin.png", "has_img_google": true},
			{"short_name": "skull", "subcategory": "face-negative", "image": "skull.png", "has_img_google": true},
			{"short_name": "zzz", "subcategory": "emotion", "image": "zzz.png", "has_img_google": true},
			{"short_name": "wave", "subcategory": "person-gesture", "image": "wave.png", "has_img_google": true,
				"skin_variations": {
					"A": {"image": "wave-a.png", "has_img_google": true},
					"B": {"image": "wave-b.png", "has_img_google": false}}}]`),
		"package/img/google/64/grin.png":   picture.Bytes(),
		"package/img/google/64/skull.png":  picture.Bytes(),
		"package/img/google/64/wave.png":   picture.Bytes(),
		"package/img/google/64/wave-a.png": picture.Bytes(),
		"package/img/google/sheets/64.png": []byte("no picture"),
	})
	if n, err := unpack(file, out); n != 3 || err != nil {
		t.Fatalf("%d pictures, %v, want 3", n, err)
	}
	found, err := filepath.Glob(filepath.Join(out, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"face/grin.png", "gesture/wave-a.png", "gesture/wave.png"} {
		if i >= len(found) || found[i] != filepath.Join(out, filepath.FromSlash(name)) {
			t.Fatalf("pictures %q, want a grin and two waves", found)
		}
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	flat, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if r, g, blue, a := flat.At(0, 0).RGBA(); r>>8 != 255 || g>>8 != 127 || blue>>8 != 127 || a>>8 != 255 {
		t.Errorf("half transparent red over white is %d %d %d %d", r>>8, g>>8, blue>>8, a>>8)
	}
	if flat.At(1, 1) != (color.RGBA{255, 255, 255, 255}) {
		t.Errorf("transparent over white is %v", flat.At(1, 1))
	}

	writePackage(t, file, map[string][]byte{"package/emoji.json": []byte(
		`[{"short_name": "grin", "subcategory": "face-smiling", "image": "grin.png", "has_img_google": true}]`)})
	if _, err := unpack(file, out); err == nil {
		t.Error("no error for a missing picture")
	}
}
