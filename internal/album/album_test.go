package album

import (
	"bytes"
	"crypto/sha256"
	"image/jpeg"
	"os"
	"path/filepath"
	"testing"
)

// TestWrite: the album is the same every time, and turning a photo as its EXIF data say makes it upright.
func TestWrite(t *testing.T) {
	sums := map[string][32]byte{}
	for range 2 {
		dir := t.TempDir()
		about, err := Write(dir)
		if err != nil || about.Photos != 60 || about.Oriented != 18 || len(about.Others) != 10 {
			t.Fatalf("%+v, error %v", about, err)
		}
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			name, _ := filepath.Rel(dir, path)
			sum := sha256.Sum256(text)
			if before, ok := sums[name]; ok && before != sum {
				t.Errorf("%s differs from one time to the next", name)
			}
			sums[name] = sum
			return err
		})
	}
	if len(sums) != 70 {
		t.Errorf("%d files, want 70", len(sums))
	}
	content, _, turn, err := photo(0, 0)
	if err != nil || turn != 6 {
		t.Fatalf("orientation %d, error %v", turn, err)
	}
	stored, err := jpeg.Decode(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	upright := Draw(0, 0)
	if s, u := stored.Bounds(), upright.Rect; s.Dx() != u.Dy() || s.Dy() != u.Dx() {
		t.Errorf("stored %v, upright %v", s, u)
	}
	// The left edge of what is stored is the top when it is turned to the right: sky.
	_, _, blue, _ := stored.At(2, stored.Bounds().Dy()/2).RGBA()
	if red, _, _, _ := stored.At(2, stored.Bounds().Dy()/2).RGBA(); blue < red {
		t.Error("the left edge of a photo to be turned to the right is no sky")
	}
}
