package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
)

// phoneClasses are folder names as people give them. Of the second the letters are composed as macOS does.
var phoneClasses = []string{
	"Hunde, Katzen", "Ho\u0308fe", "M\u00e4use & V\u00f6gel", "my garden 2024", "\u00c4pfel", "\u732b",
}

// writePhonePhotos writes 60 photos in six classes, three of them cut short, twelve turned by EXIF, among what phones,
// systems and programs leave beside photos.
func writePhonePhotos(t *testing.T) (dir string, truncated []string) {
	t.Helper()
	dir = t.TempDir()
	for label, class := range phoneClasses {
		in := func(name string) string { return filepath.Join(dir, class, name) }
		for i := range 10 {
			m := image.NewNRGBA(image.Rect(0, 0, 16+i, 12+label))
			for x := range m.Rect.Dx() {
				for y := range m.Rect.Dy() {
					m.SetNRGBA(x, y, color.NRGBA{uint8(10*x + label), uint8(20 * y), uint8(i * 20), 255})
				}
			}
			var b bytes.Buffer
			if err := jpeg.Encode(&b, m, nil); err != nil {
				t.Fatal(err)
			}
			text := b.Bytes()
			name := in(fmt.Sprintf("IMG_%04d (%d) \u00fc.JPG", 10*label+i, i))
			switch {
			case i == 7 && label%2 == 0:
				text = text[:len(text)*2/3]
				truncated = append(truncated, name)
			case i < 2: // an APP1 segment with the one tag Orientation, 6: turned to the right
				exif := "\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01" +
					"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
				text = slices.Concat(text[:2], []byte(exif), text[2:])
			}
			write(t, name, text)
		}
		write(t, in("IMG_9.HEIC"), []byte("\x00\x00\x00\x18ftypheic"))
		write(t, in("IMG_9.MOV"), nil)
		write(t, in("._IMG_0001.JPG"), []byte("\x00\x05\x16\x07"))
		write(t, in(".DS_Store"), nil)
		write(t, in(".ipynb_checkpoints/IMG_0001-checkpoint.JPG"), nil)
		write(t, filepath.Join(dir, "__MACOSX", class, "._IMG_0001.JPG"), nil)
	}
	write(t, filepath.Join(dir, ".ipynb_checkpoints", "sort-checkpoint.ipynb"), nil)
	write(t, filepath.Join(dir, "Thumbs.db"), nil)
	return dir, truncated
}

// TestPhonePhotos: a folder of photos as it comes from a phone gives its classes, and one line of what was left out.
func TestPhonePhotos(t *testing.T) {
	dir, bad := writePhonePhotos(t)
	want := slices.Sorted(slices.Values(phoneClasses))
	for i := range want {
		want[i] = norm.NFC.String(want[i])
	}
	line := "ditrun: warning: " + dir + ": left out: " +
		"12 hidden, 7 in .ipynb_checkpoints, 6 .heic, 6 .mov, 6 in __MACOSX, 1 .db\n"
	o := ditrun(t, "classes", "--data", dir, "--json")
	var lines []classLine
	if err := json.Unmarshal([]byte(o.stdout), &lines); err != nil || o.code != 0 {
		t.Fatalf("code %d (%v), errors\n%s", o.code, err, o.stderr)
	}
	var got []string
	for i, l := range lines {
		if got = append(got, norm.NFC.String(l.Name)); l.Label != i {
			t.Errorf("class %d is numbered %d", i, l.Label)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("classes %q, want %q", got, want)
	}
	if !strings.HasPrefix(o.stderr, line) || strings.Count(o.stderr, "ditrun: ") != 1 {
		t.Errorf("errors\n%s, want no other than\n%s", o.stderr, line)
	}

	r := theRoad(t)
	out := filepath.Join(t.TempDir(), "latents")
	o = ditrun(t, "encode-latents", "--data", dir, "--vae", r.vae, "--out", out, "--image-size", "8",
		"--on-error", "skip", "--json")
	var result struct{ Samples, Skipped int }
	err := json.Unmarshal([]byte(o.stdout), &result)
	if err != nil || o.code != 0 || result.Samples != 57 || result.Skipped != 3 {
		t.Fatalf("code %d (%v), printed %s, errors\n%s", o.code, err, o.stdout, o.stderr)
	}
	if n := strings.Count(o.stderr, line); n != 1 {
		t.Errorf("%d lines of what was left out in\n%s", n, o.stderr)
	}
	for _, name := range bad {
		if !strings.Contains(o.stderr, "warning: left out: load "+name) {
			t.Errorf("%s is not named in\n%s", name, o.stderr)
		}
	}
}
