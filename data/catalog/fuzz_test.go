package catalog

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/archive"
	"github.com/ditrun/ditrun/data/internal/datatest"
)

// limited counts what is written and refuses to take more than may come.
type limited struct{ n, most int64 }

func (l *limited) Write(b []byte) (int, error) {
	if l.n += int64(len(b)); l.n > l.most {
		return 0, errors.New("too much")
	}
	return len(b), nil
}

// FuzzUnpack reads compressed archives and parquet tables, told by content.
func FuzzUnpack(f *testing.F) {
	var rows []datatest.TableRow
	for i := range 4 {
		row := datatest.TableRow{Label: int64(i)}
		row.Image.Bytes = []byte("\x89PNG")
		if i > 0 {
			name := "n01440764_1_n01440764.JPEG"
			row.Image.Path = &name
		}
		rows = append(rows, row)
	}
	packed := datatest.Tar(f, []datatest.File{{"a.png", []byte("\x89PNG")}, {"a.cls", []byte("1")}})
	for _, b := range [][]byte{datatest.Gzip(f, packed), datatest.Zstd(f, packed), datatest.Table(f, rows)} {
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(len(b))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		defer func() {
			runtime.ReadMemStats(&after)
			if took, most := int64(after.TotalAlloc-before.TotalAlloc), 512<<20+200*size; took > most {
				t.Errorf("%d bytes took %d of memory, want at most %d", size, took, most)
			}
		}()
		unpack := unpackTable
		switch {
		case bytes.HasPrefix(b, []byte("\x1f\x8b")):
			unpack = archive.Gunzip
		case bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")):
			unpack = archive.Unzstd
		}
		out := &limited{most: archive.MaxUnpacked(size) + 1<<25} // it is looked at now and then
		if err := unpack(t.Context(), bytes.NewReader(b), size, out); err != nil &&
			strings.Contains(err.Error(), "too much") {
			t.Error(err)
		}
	})
}
