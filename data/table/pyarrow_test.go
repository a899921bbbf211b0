package table

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pyarrowPicture is picture of testdata/make.py.
func pyarrowPicture(row int) string {
	b := []byte("\x89PNG")
	for i := range 15 {
		sum := sha256.Sum256(fmt.Appendf(nil, "%d %d", row, i))
		b = append(b, sum[:]...)
	}
	return string(b)
}

// What pyarrow writes is read: each compression, with pages of both versions, with and without dictionaries, nulls,
// large types and several row groups, the first of them empty. DITRUN_PARQUET names a folder with other such tables.
func TestPyarrowTables(t *testing.T) {
	folder := "testdata"
	if dir := os.Getenv("DITRUN_PARQUET"); dir != "" {
		folder = dir
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.parquet"))
	if err != nil || len(files) < 24 {
		t.Fatalf("%d tables: %v", len(files), err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := picturesOf(t, b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, p := range rows {
			want := pyarrowPicture(i)
			if i == 2 && strings.Contains(name, "-null") {
				want = ""
			}
			if p.Row != i || string(p.Content) != want || p.Label.String() != fmt.Sprint(i%3) {
				t.Errorf("%s: row %d, %d, holds %.20q... with label %s", name, i, p.Row, p.Content, p.Label)
			}
		}
		if len(rows) != 7 {
			t.Errorf("%s: %d rows, want 7", name, len(rows))
		}
	}
}
