package table

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	meta "github.com/parquet-go/parquet-go/format"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

// tableOf is a parquet file of n pictures, of which several are the same.
func tableOf(t testing.TB, n int, options ...parquet.WriterOption) []byte {
	var rows []datatest.TableRow
	for i := range n {
		row := datatest.TableRow{Label: int64(i % 3)}
		row.Image.Bytes = append([]byte("\x89PNG"), bytes.Repeat([]byte{byte(i % 7)}, 40*i)...)
		if i%2 > 0 {
			name := "n01440764_1_n01440764.JPEG"
			row.Image.Path = &name
		}
		rows = append(rows, row)
	}
	return datatest.Table(t, rows, options...)
}

// picturesOf returns all pictures of a table.
func picturesOf(t testing.TB, table []byte) (rows []Picture, err error) {
	err = Pictures(t.Context(), bytes.NewReader(table), int64(len(table)), func(p Picture) error {
		p.Content = bytes.Clone(p.Content)
		rows = append(rows, p)
		return nil
	})
	return rows, err
}

// Every way to write a table that the library has is read to the same pictures.
func TestParquetCodecs(t *testing.T) {
	var want []Picture
	for _, codec := range []compress.Codec{&parquet.Uncompressed, &parquet.Snappy, &parquet.Gzip, &parquet.Brotli,
		&parquet.Zstd, &parquet.Lz4Raw} {
		for version := 1; version <= 2; version++ {
			for _, encoding := range []parquet.WriterOption{
				parquet.DefaultEncodingFor(parquet.ByteArray, &parquet.Plain),
				parquet.DefaultEncodingFor(parquet.ByteArray, &parquet.RLEDictionary),
				parquet.DefaultEncodingFor(parquet.ByteArray, &parquet.DeltaLengthByteArray),
				parquet.DefaultEncodingFor(parquet.Int64, &parquet.DeltaBinaryPacked),
			} {
				table := tableOf(t, 50, parquet.Compression(codec), parquet.DataPageVersion(version), encoding,
					parquet.MaxRowsPerRowGroup(20), parquet.PageBufferSize(512))
				rows, err := picturesOf(t, table)
				if err != nil {
					t.Errorf("%s, pages of version %d: %v", codec, version, err)
					continue
				}
				if want == nil {
					want = rows
				}
				if !reflect.DeepEqual(rows, want) {
					t.Errorf("%s, pages of version %d: other pictures than uncompressed", codec, version)
				}
			}
		}
	}
	if n := len(want); n != 50 || !bytes.HasPrefix(want[49].Content, []byte("\x89PNG")) {
		t.Errorf("%d pictures, want 50", n)
	}
}

// page is a page of a column, as it stands in a file.
func page(t testing.TB, h meta.PageHeader, body []byte) []byte {
	b, err := thrift.Marshal(new(thrift.CompactProtocol), &h)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, body...)
}

func dataPage(t testing.TB, size, values int, encoding meta.Encoding, body []byte) []byte {
	return page(t, meta.PageHeader{Type: meta.DataPage, UncompressedPageSize: int32(size),
		CompressedPageSize: int32(len(body)),
		DataPageHeader: thrift.New(meta.DataPageHeader{NumValues: int32(values), Encoding: encoding,
			DefinitionLevelEncoding: meta.RLE, RepetitionLevelEncoding: meta.RLE})}, body)
}

func dictionaryPage(t testing.TB, size, values int, body []byte) []byte {
	return page(t, meta.PageHeader{Type: meta.DictionaryPage, UncompressedPageSize: int32(size),
		CompressedPageSize:   int32(len(body)),
		DictionaryPageHeader: thrift.New(meta.DictionaryPageHeader{NumValues: int32(values), Encoding: meta.Plain})},
		body)
}

// edited is a table whose footer was changed by edit; pages stand before it, from offset at.
func edited(t testing.TB, table, pages []byte, edit func(f *meta.FileMetaData, at int64)) []byte {
	t.Helper()
	n := int(binary.LittleEndian.Uint32(table[len(table)-8:]))
	start := len(table) - 8 - n
	var f meta.FileMetaData
	if err := thrift.Unmarshal(new(thrift.CompactProtocol), table[start:start+n], &f); err != nil {
		t.Fatal(err)
	}
	edit(&f, int64(start))
	footer, err := thrift.Marshal(new(thrift.CompactProtocol), &f)
	if err != nil {
		t.Fatal(err)
	}
	b := append(bytes.Clone(table[:start]), pages...)
	b = append(b, footer...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(footer)))
	return append(b, "PAR1"...)
}

// hostilePages is a table whose column, 0 of the pictures, 2 of the labels, has other pages.
func hostilePages(t testing.TB, column int, codec meta.CompressionCodec, pages ...[]byte) []byte {
	all := bytes.Join(pages, nil)
	return edited(t, tableOf(t, 3), all, func(f *meta.FileMetaData, at int64) {
		m := &f.RowGroups[0].Columns[column].MetaData
		m.Codec, m.DataPageOffset, m.DictionaryPageOffset, m.TotalCompressedSize = codec, at, 0, int64(len(all))
	})
}

func encoded(t testing.TB, codec compress.Codec, n int) []byte {
	b, err := codec.Encode(nil, make([]byte, n))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hostileTable is a table that announces more than it holds, and the error of reading it.
type hostileTable struct {
	table []byte
	err   string
}

// footerSays is a small table that says its footer has n bytes.
func footerSays(t testing.TB, n uint32) []byte {
	b := tableOf(t, 3)
	binary.LittleEndian.PutUint32(b[len(b)-8:], n)
	return b
}

func hostileTables(t testing.TB) map[string]hostileTable {
	with := func(edit func(f *meta.FileMetaData)) []byte {
		return edited(t, tableOf(t, 3), nil, func(f *meta.FileMetaData, _ int64) { edit(f) })
	}
	rawFooter := func(footer ...byte) []byte {
		b := append([]byte("PAR1"), footer...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(footer)))
		return append(b, "PAR1"...)
	}
	// Twice the memory that reading may take, see TestHostileParquet.
	const bomb = 32 << 20
	level := []byte{2, 0, 0, 0, 6, 1} // of three values that are there
	longRun := append(binary.AppendUvarint(nil, 2*math.MaxInt32), 1)
	return map[string]hostileTable{
		"footer of 4 GB":       {footerSays(t, 0xfffffff0), "a footer of 4294967280 bytes"},
		"footer of the file":   {footerSays(t, uint32(len(tableOf(t, 3)))), "a footer of "},
		"schema of 2 billions": {rawFooter(0x15, 2, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07), "ends within a value"},
		"name of 2 GB": {rawFooter(0x15, 2, 0x19, 0x1c, 0x48, 0xff, 0xff, 0xff, 0xff, 0x07),
			"ends within a value"},
		"nested without end": {rawFooter(append(bytes.Repeat([]byte{0x1c}, 60000), make([]byte, 60001)...)...),
			"levels deep"},
		"lists in lists": {rawFooter(append([]byte{0x19}, bytes.Repeat([]byte{0x19}, 60000)...)...),
			"levels deep"},
		"many columns": {with(func(f *meta.FileMetaData) {
			for range 3000 {
				f.Schema = append(f.Schema, f.Schema[1])
			}
		}), "columns: want at most 2000"},
		"column before the file": {
			with(func(f *meta.FileMetaData) { f.RowGroups[0].Columns[0].MetaData.DataPageOffset = -1 }),
			"damaged: column image.bytes takes"},
		"column behind the file": {
			with(func(f *meta.FileMetaData) { f.RowGroups[0].Columns[0].MetaData.DataPageOffset = 1 << 60 }),
			"damaged: column image.bytes takes"},
		"column of 8 EB": {
			with(func(f *meta.FileMetaData) { f.RowGroups[0].Columns[0].MetaData.TotalCompressedSize = math.MaxInt64 }),
			"damaged: column image.bytes takes"},
		"page of 2 GB": {hostilePages(t, 0, meta.Snappy, dataPage(t, math.MaxInt32, 3, meta.Plain, level)),
			"want at most"},
		"page beyond the column": {
			hostilePages(t, 0, meta.Snappy, dataPage(t, 100, 3, meta.Plain, make([]byte, 5000))[:4000]),
			"where there are"},
		"dictionary of 2 billion": {
			hostilePages(t, 0, meta.Uncompressed, dictionaryPage(t, 8, math.MaxInt32, make([]byte, 8))),
			"a dictionary of 2147483647 values in 8 bytes"},
		"page of 2 billion": {
			hostilePages(t, 0, meta.Uncompressed, dataPage(t, 8, math.MaxInt32, meta.Plain, level)),
			"2147483647 values in 6 bytes"},
		"zstd bomb": {
			hostilePages(t, 0, meta.Zstd, dataPage(t, 100, 3, meta.Plain, encoded(t, &parquet.Zstd, bomb))),
			"larger than the 100 bytes announced"},
		"gzip bomb": {
			hostilePages(t, 0, meta.Gzip, dataPage(t, 100, 3, meta.Plain, encoded(t, &parquet.Gzip, bomb))),
			"larger than the 100 bytes announced"},
		"brotli bomb": {
			hostilePages(t, 0, meta.Brotli, dataPage(t, 100, 3, meta.Plain, encoded(t, &parquet.Brotli, bomb))),
			"larger than the 100 bytes announced"},
		"lz4 bomb": {
			hostilePages(t, 0, meta.Lz4Raw, dataPage(t, 100, 3, meta.Plain, encoded(t, &parquet.Lz4Raw, 1<<20))),
			"larger than the 100 bytes announced"},
		"lz4 garbage": {
			hostilePages(t, 0, meta.Lz4Raw, dataPage(t, 100, 3, meta.Plain, bytes.Repeat([]byte{0xff}, 100))),
			"larger than the 100 bytes announced"},
		"snappy bomb": {
			hostilePages(t, 0, meta.Snappy, dataPage(t, 100, 3, meta.Plain, binary.AppendUvarint(nil, 1<<31))),
			"larger than the 100 bytes announced"},
		"announced bomb": {
			hostilePages(t, 0, meta.Zstd,
				dataPage(t, 4*bomb, 3, meta.Plain, encoded(t, &parquet.Zstd, bomb))),
			"want at most"},
		"levels in a long run": {
			hostilePages(t, 0, meta.Uncompressed,
				dataPage(t, 9, 3, meta.Plain, append([]byte{byte(len(longRun)), 0, 0, 0}, longRun...))),
			"a run of 2147483647 values, where there are 3"},
		"indices in a long run": {hostilePages(t, 2, meta.Uncompressed, dictionaryPage(t, 8, 1, make([]byte, 8)),
			dataPage(t, 9, 3, meta.RLEDictionary, append([]byte{1}, longRun...))),
			"a run of 2147483647 values, where there are 3"},
		"delta of 2 billion": {hostilePages(t, 2, meta.Uncompressed, dataPage(t, 9, 3, meta.DeltaBinaryPacked,
			append(binary.AppendUvarint([]byte{0x80, 1, 4}, math.MaxInt32), 0))), "2147483647 values, want at most 3"},
		"a prefix again and again": {
			hostilePages(t, 0, meta.Uncompressed, dataPage(t, 9, 3, meta.DeltaByteArray, level)),
			"DELTA_BYTE_ARRAY: want plain values"},
		"header without end": {hostilePages(t, 0, meta.Uncompressed, bytes.Repeat([]byte{0x1c}, 9000)),
			"levels deep"},
		"statistics of 2 GB": {
			hostilePages(t, 0, meta.Uncompressed,
				append([]byte{0x15, 0, 0x5c, 0x18, 0xff, 0xff, 0xff, 0xff, 0x07}, make([]byte, 4000)...)),
			"ends within a value"},
	}
}

// What a table announces is compared with what is there: no file of some kilobytes makes the program take much memory.
func TestHostileParquet(t *testing.T) {
	for name, c := range hostileTables(t) {
		size := int64(len(c.table))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := Pictures(t.Context(), bytes.NewReader(c.table), size, func(Picture) error { return nil })
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want %q", name, err, c.err)
		}
		if took, most := int64(after.TotalAlloc-before.TotalAlloc), 16<<20+32*size; took > most {
			t.Errorf("%s: a file of %d bytes took %d bytes of memory, want at most %d", name, size, took, most)
		}
	}
	// The other readers of tables.
	for _, read := range []func(b []byte) error{
		func(b []byte) error { _, err := ClassNames(bytes.NewReader(b), int64(len(b))); return err },
		func(b []byte) error {
			found := func(int, []byte) error { return nil }
			return Texts(t.Context(), bytes.NewReader(b), int64(len(b)), []string{"text"}, 3, found)
		},
	} {
		if err := read(footerSays(t, 0xfffffff0)); err == nil ||
			!strings.Contains(err.Error(), "a footer of 4294967280 bytes") {
			t.Errorf("another reader: %v", err)
		}
	}
}

// A page is compared with what the library makes of it: the check refuses nothing that is right.
func TestParquetPagesAreWhole(t *testing.T) {
	body := snappy.Encode(nil,
		append([]byte{2, 0, 0, 0, 6, 1}, "\x04\x00\x00\x00\x89PNG\x01\x00\x00\x00a\x01\x00\x00\x00b"...))
	table := hostilePages(t, 0, meta.Snappy, dataPage(t, 25, 3, meta.Plain, body))
	rows, err := picturesOf(t, table)
	if err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(rows, func(p Picture) bool { return string(p.Content) == "\x89PNG" }) {
		t.Error("the picture is not there")
	}
	// Columns of different lengths.
	table = hostilePages(t, 0, meta.Snappy,
		dataPage(t, 11, 1, meta.Plain, snappy.Encode(nil, append([]byte{2, 0, 0, 0, 2, 1}, "\x01\x00\x00\x00b"...))))
	if _, err := picturesOf(t, table); err == nil ||
		!strings.Contains(err.Error(), "columns of different lengths") {
		t.Errorf("columns of 1 and 3 values: %v", err)
	}
}

// FuzzPictures reads tables: neither a crash nor much memory, whatever is in them.
func FuzzPictures(f *testing.F) {
	whole := tableOf(f, 4)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	for _, h := range hostileTables(f) {
		if len(h.table) < 1<<14 {
			f.Add(h.table)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(len(b))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := ClassNames(bytes.NewReader(b), size); err == nil && !bytes.HasPrefix(b, []byte("PAR1")) {
			t.Error("not parquet, and read")
		}
		_ = Pictures(t.Context(), bytes.NewReader(b), size, func(Picture) error { return nil })
		runtime.ReadMemStats(&after)
		if took, most := int64(after.TotalAlloc-before.TotalAlloc), 512<<20+200*size; took > most {
			t.Errorf("%d bytes took %d of memory, want at most %d", size, took, most)
		}
	})
}
