package catalog

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
)

// TestOrientationGolden: JPEG, PNG and WebP files with every orientation, and with treacherous EXIF data, are as Pillow
// reads them or, with ByEXIF, as its exif_transpose turns them; TIFF is turned once in both.
func TestOrientationGolden(t *testing.T) {
	files := datatest.OrientedFiles(t)
	tree := map[string][]byte{}
	for name, b := range files {
		tree["x/"+name] = b
	}
	golden := string(files["golden.txt"])
	dir := datatest.WriteFiles(t, tree)
	for field, turn := range map[int]picture.Orientation{2: picture.AsStored, 5: picture.ByEXIF} {
		src, err := Open(t.Context(), dir, Options{Orientation: turn})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if got := OrientationOf(Without(src, []int{0})); got != turn {
			t.Errorf("opened with %s, it says %s", turn, got)
		}
		ids := map[string]int{}
		for i := range src.Len() {
			ids[src.Sample(i).Name] = i
		}
		n, oriented := 0, 0
		for line := range strings.Lines(golden) {
			f := strings.Fields(line)
			name, w, h, pix := f[0], f[field], f[field+1], f[field+2]
			img, err := src.Image(ids[name])
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got := fmt.Sprintf("%d %d %s", img.W, img.H, hex.EncodeToString(img.Pix)); got != w+" "+h+" "+pix {
				t.Errorf("%s, %s: other pixels than Pillow's", name, turn)
			}
			if want := f[1] == "True"; img.Oriented != want {
				t.Errorf("%s, %s: oriented %v, want %v", name, turn, img.Oriented, want)
			}
			if img.Oriented {
				oriented++
			}
			n++
		}
		if n < 50 || oriented < 30 || n != src.Len() {
			t.Errorf("%d pictures compared, %d oriented, want at least 50 and 30, and all %d", n, oriented, src.Len())
		}
	}
	if _, err := Open(t.Context(), dir, Options{Orientation: "up"}); err == nil ||
		!strings.Contains(err.Error(), `orientation "up": want exif or as-stored`) {
		t.Errorf("error %v", err)
	}
}

// TestOrientedMemory: turning a picture takes memory for a second one, which counts.
func TestOrientedMemory(t *testing.T) {
	files := datatest.OrientedFiles(t)
	dir := datatest.WriteFiles(t, map[string][]byte{"x/6.png": files["6.png"]})
	const stored, copied = 7 * 5 * 11, 7 * 5 * 3
	for turn, want := range map[picture.Orientation]int64{picture.AsStored: stored, picture.ByEXIF: stored + copied} {
		src, err := Open(t.Context(), dir, Options{Orientation: turn, DecodeMemory: 1000})
		if err != nil {
			t.Fatal(err)
		}
		c := src.(*catalogue)
		img := new(picture.Image)
		done, err := c.Decode(t.Context(), img, 0, files["6.png"])
		if err != nil {
			t.Fatal(err)
		}
		if !c.budget.free.TryAcquire(1000-want) || c.budget.free.TryAcquire(1) {
			t.Errorf("%s: a picture takes other than %d bytes", turn, want)
		}
		done()
	}
}
