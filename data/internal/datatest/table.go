package datatest

import (
	"bytes"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// A TableRow is a picture as Hugging Face's datasets stores it.
type TableRow struct {
	Image struct {
		Bytes []byte  `parquet:"bytes,optional"`
		Path  *string `parquet:"path,optional"`
	} `parquet:"image"`
	Label int64 `parquet:"label"`
}

// Table is a parquet file, in row groups of three and compressed by Snappy where the options do not say otherwise.
func Table(t testing.TB, rows []TableRow, options ...parquet.WriterOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[TableRow](&b,
		append([]parquet.WriterOption{parquet.MaxRowsPerRowGroup(3), parquet.Compression(&parquet.Snappy)},
			options...)...)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
