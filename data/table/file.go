package table

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	meta "github.com/parquet-go/parquet-go/format"
)

// A File is an open table. Its columns are as the library reads them from a pageReader: not compressed.
type File struct {
	*parquet.File
	stored *meta.FileMetaData // what the footer says
}

// StoredRows is the number of rows that the footer says.
func (t *File) StoredRows() int64 { return t.stored.NumRows }

// Open opens a parquet file whose footer announces no more than it holds.
func Open(f io.ReaderAt, size int64) (*File, error) {
	const least = 12 // two marks and a length
	var tail [8]byte
	if size < least {
		return nil, fmt.Errorf("%d bytes: too short for a parquet file", size)
	}
	if _, err := f.ReadAt(tail[:], size-8); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if string(tail[4:]) != "PAR1" {
		return nil, fmt.Errorf("truncated: the file ends with %q, want \"PAR1\"", tail[4:])
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if most := min(size-least, maxParquetFooter); n > most {
		return nil, fmt.Errorf("damaged: a footer of %d bytes, want at most %d", n, most)
	}
	footer := make([]byte, n)
	if _, err := f.ReadAt(footer, size-8-n); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	const schema = 2 // field of FileMetaData
	columns := int64(0)
	walk := thriftWalk{b: footer}
	err := walk.message(func(in int16, f thriftField) {
		if in == 0 && f.id == schema {
			columns = f.value
		}
	})
	if err != nil {
		return nil, fmt.Errorf("damaged: footer: %w", err)
	}
	if columns > maxParquetSchema {
		return nil, fmt.Errorf("%d columns: want at most %d", columns, maxParquetSchema)
	}
	var t File
	if t.stored, err = readFooter(footer); err != nil {
		return nil, err
	}
	plain, err := plainFooter(footer)
	if err != nil {
		return nil, err
	}
	at := size - 8 - n
	t.File, err = parquet.OpenFile(&otherTail{f, at, plain}, at+int64(len(plain)),
		parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	return &t, err
}

// Groups yields the row groups that have rows.
func (t *File) Groups() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range t.stored.RowGroups {
			if t.stored.RowGroups[i].NumRows != 0 && !yield(i) {
				return
			}
		}
	}
}

func readFooter(b []byte) (*meta.FileMetaData, error) {
	var f meta.FileMetaData
	if err := thrift.Unmarshal(new(thrift.CompactProtocol), b, &f); err != nil {
		return nil, fmt.Errorf("damaged: footer: %w", err)
	}
	return &f, nil
}

// plainFooter is the end of a file that has the columns of footer, each as what a pageReader makes of it: not
// compressed, from offset 0 and without end.
func plainFooter(footer []byte) ([]byte, error) {
	f, err := readFooter(footer)
	if err != nil {
		return nil, err
	}
	for i := range f.RowGroups {
		for j := range f.RowGroups[i].Columns {
			m := &f.RowGroups[i].Columns[j].MetaData
			m.Codec, m.DataPageOffset, m.DictionaryPageOffset = meta.Uncompressed, 0, 0
			m.TotalCompressedSize = math.MaxInt64
		}
	}
	b, err := thrift.Marshal(new(thrift.CompactProtocol), f)
	if err != nil {
		return nil, fmt.Errorf("damaged: footer: %w", err)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(b)))
	return append(b, "PAR1"...), nil
}

// otherTail is a file whose bytes from offset at are others.
type otherTail struct {
	f    io.ReaderAt
	at   int64
	tail []byte
}

func (o *otherTail) ReadAt(p []byte, off int64) (n int, err error) {
	if off < o.at {
		n, err = o.f.ReadAt(p[:min(int64(len(p)), o.at-off)], off)
		if n == len(p) || err != nil {
			return n, err
		}
	}
	i := off + int64(n) - o.at
	if i > int64(len(o.tail)) {
		return n, io.EOF
	}
	k := copy(p[n:], o.tail[i:])
	if n += k; n < len(p) {
		err = io.EOF
	}
	return n, err
}
