package catalog

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

// Further fuzz targets are beside the tests of what they try, here FuzzListTar and FuzzIDX.

func FuzzLabels(f *testing.F) {
	f.Add("cat\ndog\ncat\n")
	f.Add("ImageId,PredictionString\na.jpg,n01440764 1 2 3 4\nb,n01443537\nx/c.png n01440764\r\n")
	f.Add("1\n2\n3\n")
	f.Add("file,label\n\"a.jpg\",\"golden, retriever\"\nb.jpg,boeing 747\nx/c.jpg,cat,train\n")
	f.Add("class,file\ncat,a.jpg\ndog,b.jpg\ncat,c.jpg\n")
	f.Add("x/a.jpg\tcat\ny/a.jpg\tdog\nb cat\nc cat\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseLabels([]byte(text))
		if err != nil {
			return
		}
		entries := []entry{{name: "b.jpg"}, {name: "a.jpg"}, {name: "c.jpg"}}
		classes, err := l.apply(entries)
		if err != nil {
			return
		}
		for _, e := range entries {
			line, err := int(e.name[0]-'a'), error(nil)
			if l.names != nil {
				line, err = l.find(e.name)
			}
			if err != nil || int(e.label) >= len(classes) || classes[e.label] != l.lines[line] {
				t.Errorf("%s has label %d of %q, want that of line %d of %q: %v",
					e.name, e.label, classes, line, l.lines, err)
			}
		}
	})
}

// FuzzSampleLabel reads members .cls and .json.
func FuzzSampleLabel(f *testing.F) {
	for _, text := range []string{
		"3\n", "cat", "-1", "1e9", `{"label": 3}`, `{"label": "cat", "class_id": 2.0}`, `{"label": [1], "cls": null}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parseLabel(string(text))
		byJSON, found, jsonErr := labelOfJSON(text)
		for _, c := range []struct {
			label label
			found bool
			err   error
		}{{l, err == nil, err}, {byJSON, found, jsonErr}} {
			both := c.label.class != "" && c.label.number != 0
			if c.found && c.err != nil || c.label.number < 0 || c.label.number > maxLabel || both {
				t.Errorf("%q: %+v", text, c)
			}
			if !c.found {
				continue
			}
			if again, err := parseLabel(c.label.String()); err != nil || again != c.label { // as in archives of our own
				t.Errorf("%q: label %q is read again as %q: %v", text, c.label, again, err)
			}
		}
	})
}

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
	var rows []parquetRow
	for i := range 4 {
		row := parquetRow{Label: int64(i)}
		row.Image.Bytes = []byte("\x89PNG")
		if i > 0 {
			name := "n01440764_1_n01440764.JPEG"
			row.Image.Path = &name
		}
		rows = append(rows, row)
	}
	archive := datatest.Tar(f, []datatest.File{{"a.png", []byte("\x89PNG")}, {"a.cls", []byte("1")}})
	for _, b := range [][]byte{datatest.Gzip(f, archive), datatest.Zstd(f, archive), parquetOf(f, rows)} {
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	for _, h := range hostileTables(f) {
		if len(h.table) < 1<<14 {
			f.Add(h.table)
		}
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
		unpack := unpackParquet
		switch {
		case bytes.HasPrefix(b, []byte("\x1f\x8b")):
			unpack = unpackGzip
		case bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")):
			unpack = unpackZstd
		default:
			if _, err := parquetClasses(bytes.NewReader(b), size); err == nil && !bytes.HasPrefix(b, []byte("PAR1")) {
				t.Error("not parquet, and read")
			}
		}
		out := &limited{most: maxUnpacked(size) + 1<<25} // it is looked at now and then
		if err := unpack(t.Context(), bytes.NewReader(b), size, out); err != nil &&
			strings.Contains(err.Error(), "too much") {
			t.Error(err)
		}
	})
}
