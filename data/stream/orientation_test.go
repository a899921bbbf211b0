package stream

import (
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
)

// TestOrientedCounts: batches and a check count the pictures that are oriented.
func TestOrientedCounts(t *testing.T) {
	tree := map[string][]byte{}
	for name, b := range datatest.OrientedFiles(t) {
		tree["x/"+name] = b
	}
	dir := datatest.WriteFiles(t, tree)
	for _, turn := range []picture.Orientation{picture.AsStored, picture.ByEXIF} {
		src, err := catalog.Open(t.Context(), dir, catalog.Options{Orientation: turn})
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		oriented := 0
		for i := range src.Len() {
			img, err := src.Image(i)
			if err != nil {
				t.Fatal(err)
			}
			if img.Oriented {
				oriented++
			}
		}
		if oriented < 30 {
			t.Errorf("%s: %d oriented, want at least 30", turn, oriented)
		}
		found, err := CheckPictures(t.Context(), src, 0, src.Len(), 2, nil)
		if err != nil || len(found.Bad) != 0 || found.Oriented != oriented {
			t.Errorf("a check found %+v, error %v, want %d oriented", found, err, oriented)
		}
		total := 0
		o := ImageOptions{Size: picture.Square(4), Batch: 7, Workers: 2}
		for b, err := range ImageRange(t.Context(), src, 0, src.Len(), o) {
			if err != nil {
				t.Fatal(err)
			}
			total += b.Oriented
		}
		if total != oriented {
			t.Errorf("batches count %d, want %d", total, oriented)
		}
	}
}
