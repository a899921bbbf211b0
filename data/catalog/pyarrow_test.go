package catalog

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pyarrowPicture is picture of testdata/parquet/make.py.
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
	folder := "testdata/parquet"
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
		var out bytes.Buffer
		if err := unpackParquet(t.Context(), bytes.NewReader(b), int64(len(b)), &out); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		rows := 0
		for r := tar.NewReader(&out); ; rows++ {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			want := pyarrowPicture(rows)
			if rows == 2 && strings.Contains(name, "-null") {
				want = "ditrun: no picture: row 2 has no picture"
			}
			if string(body) != want || h.PAXRecords["DITRUN.label"] != fmt.Sprint(rows%3) {
				t.Errorf("%s: row %d holds %.20q... with label %s", name, rows, body, h.PAXRecords["DITRUN.label"])
			}
		}
		if rows != 7 {
			t.Errorf("%s: %d rows, want 7", name, rows)
		}
	}
}
