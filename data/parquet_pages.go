package data

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	meta "github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// The parquet library makes room for whatever a file says: the length of its footer, the elements of lists, the sizes of
// pages before and after decompression, values in a page, runs of one value. What is here compares these with the bytes
// that there are, before the library sees them.

const (
	// maxParquetFooter is far more than the footer of any table of pictures: some hundred bytes a column and row group.
	maxParquetFooter = 64 << 20
	// maxParquetSchema bounds the columns, nested ones counted at each level.
	maxParquetSchema = 2000
	// maxPageHeader is far more than a header takes whose statistics hold a short text.
	maxPageHeader = 16 << 20
)

// maxPage bounds what a page of n compressed bytes may grow to. Pictures hardly grow at all.
func maxPage(n int) int { return 32*n + 64<<20 }

// maxPageValues bounds the values in a page of n bytes: many nulls, or many times one value, take next to no room.
func maxPageValues(n int) int { return 8*n + 1<<22 }

// openParquet opens a parquet file whose footer announces no more than it holds.
func openParquet(f io.ReaderAt, size int64) (*parquet.File, error) {
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
	return parquet.OpenFile(f, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
}

// column is a leaf column of a table.
type column struct {
	parquet.LeafColumn
	name string
}

// columnAt returns leaf column i.
func columnAt(file *parquet.File, i int) (column, error) {
	path := file.Schema().Columns()[i]
	leaf, ok := file.Schema().Lookup(path...)
	name := strings.Join(path, ".")
	if !ok || leaf.ColumnIndex != i {
		return column{}, fmt.Errorf("damaged: no column %s", name)
	}
	return column{leaf, name}, nil
}

// kind is the physical type of the column.
func (c *column) kind() parquet.Kind { return c.Node.Type().Kind() }

// pages returns the pages of the column in row group i, each of which is checked before the library reads it.
func (c *column) pages(f io.ReaderAt, size int64, file *parquet.File, i int) (*parquet.FilePages, error) {
	chunks, metas := file.RowGroups()[i].ColumnChunks(), file.Metadata().RowGroups[i].Columns
	if c.ColumnIndex >= min(len(chunks), len(metas)) {
		return nil, fmt.Errorf("damaged: a row group without column %s", c.name)
	}
	chunk, ok := chunks[c.ColumnIndex].(*parquet.FileColumnChunk)
	if !ok {
		return nil, fmt.Errorf("damaged: column %s is not in the file", c.name)
	}
	info := &metas[c.ColumnIndex].MetaData
	first := info.DataPageOffset
	if info.DictionaryPageOffset != 0 {
		first = info.DictionaryPageOffset
	}
	length := info.TotalCompressedSize
	if first < 4 || length < 0 || first > size || length > size-first {
		return nil, fmt.Errorf("damaged: column %s takes %d bytes from %d of %d", c.name, length, first, size)
	}
	return chunk.PagesFrom(&pageReader{f: f, column: c, codec: info.Codec, next: first, end: first + length}), nil
}

// pageReader reads a column of a row group from its start, one whole page after the other, and checks each.
type pageReader struct {
	f      io.ReaderAt
	column *column
	codec  meta.CompressionCodec

	page      []byte // with its header
	at        int64  // where page begins
	next, end int64  // where the next page begins, and where the last ends
	raw       []byte // a page that was decompressed
	zstd      *zstd.Decoder
}

// ReadAt reads on: the library reads pages in their order.
func (r *pageReader) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		switch i := off + int64(n) - r.at; {
		case i >= 0 && i < int64(len(r.page)):
			n += copy(p[n:], r.page[i:])
		case off+int64(n) != r.next:
			return n, fmt.Errorf("damaged: column %s has no page at %d", r.column.name, off+int64(n))
		case r.next == r.end:
			return n, io.EOF
		default:
			if err := r.load(); err != nil {
				return n, fmt.Errorf("column %s: page at %d: %w", r.column.name, r.next, err)
			}
		}
	}
	return n, nil
}

// pageHeader is what the header of a page says.
type pageHeader struct {
	kind                     meta.PageType
	size, compressed         int64
	values, dictionaryValues int64
	encoding, defEncoding    meta.Encoding
	v2Values                 int64
	v2Encoding               meta.Encoding
	defLength, repLength     int64
	repEncoding              meta.Encoding
	plain                    bool // of a v2 page: not compressed
}

// load reads the next page and checks it.
func (r *pageReader) load() error {
	left := r.end - r.next
	var h pageHeader
	var head int
	for most := min(left, 4096); ; most = min(left, 16*most) {
		r.page = slices.Grow(r.page[:0], int(most))[:most]
		if n, err := r.f.ReadAt(r.page, r.next); n < len(r.page) {
			return fmt.Errorf("truncated after %d of %d bytes: %w", n, most, err)
		}
		var err error
		if head, err = h.read(r.page); err == nil {
			break
		}
		if !errors.Is(err, errThriftShort) || most == left || most >= maxPageHeader {
			return fmt.Errorf("damaged: header: %w", err)
		}
	}
	if h.size < 0 || h.compressed < 0 || h.compressed > left-int64(head) {
		return fmt.Errorf("damaged: %d bytes, %d decompressed, where there are %d", h.compressed, h.size, left-int64(head))
	}
	have := len(r.page)
	total := head + int(h.compressed)
	r.page = slices.Grow(r.page, max(0, total-have))[:total]
	if have < total {
		if n, err := r.f.ReadAt(r.page[have:], r.next+int64(have)); n < total-have {
			return fmt.Errorf("truncated after %d of %d bytes: %w", have+n, total, err)
		}
	}
	if err := r.check(&h, r.page[head:]); err != nil {
		return err
	}
	r.at, r.next = r.next, r.next+int64(total)
	return nil
}

// read takes a header from the start of b and returns its length. The numbers are those of the fields of PageHeader and
// the structs in it, in parquet.thrift.
func (h *pageHeader) read(b []byte) (int, error) {
	*h = pageHeader{}
	walk := thriftWalk{b: b}
	err := walk.message(func(in int16, f thriftField) {
		if f.kind == thriftStruct || f.kind == thriftBinary || f.kind == thriftList {
			return
		}
		switch [2]int16{in, f.id} {
		case [2]int16{0, 1}:
			h.kind = meta.PageType(f.value)
		case [2]int16{0, 2}:
			h.size = f.value
		case [2]int16{0, 3}:
			h.compressed = f.value
		case [2]int16{5, 1}: // DataPageHeader
			h.values = f.value
		case [2]int16{5, 2}:
			h.encoding = meta.Encoding(f.value)
		case [2]int16{5, 3}:
			h.defEncoding = meta.Encoding(f.value)
		case [2]int16{5, 4}:
			h.repEncoding = meta.Encoding(f.value)
		case [2]int16{7, 1}: // DictionaryPageHeader
			h.dictionaryValues = f.value
		case [2]int16{8, 1}: // DataPageHeaderV2
			h.v2Values = f.value
		case [2]int16{8, 4}:
			h.v2Encoding = meta.Encoding(f.value)
		case [2]int16{8, 5}:
			h.defLength = f.value
		case [2]int16{8, 6}:
			h.repLength = f.value
		case [2]int16{8, 7}:
			h.plain = f.value == 0
		}
	})
	return walk.at, err
}

// check compares what a page announces with what it holds.
func (r *pageReader) check(h *pageHeader, body []byte) error {
	switch h.kind {
	case meta.DictionaryPage:
		raw, err := r.decompress(body, h.size)
		if err != nil {
			return err
		}
		if h.dictionaryValues < 0 || h.dictionaryValues > int64(len(raw)/4) { // a length or a number of four bytes each
			return fmt.Errorf("damaged: a dictionary of %d values in %d bytes", h.dictionaryValues, len(raw))
		}
	case meta.DataPage:
		raw, err := r.decompress(body, h.size)
		if err != nil {
			return err
		}
		n, err := count(h.values, len(raw))
		if err != nil {
			return err
		}
		for _, level := range []struct {
			most     int
			encoding meta.Encoding
		}{{r.column.MaxRepetitionLevel, h.repEncoding}, {r.column.MaxDefinitionLevel, h.defEncoding}} {
			if level.most == 0 {
				continue
			}
			if len(raw) < 4 || int64(binary.LittleEndian.Uint32(raw)) > int64(len(raw)-4) {
				return errors.New("damaged: levels that do not fit the page")
			}
			end := 4 + int(binary.LittleEndian.Uint32(raw))
			if level.encoding == meta.RLE {
				if err := checkRuns(raw[4:end], bits.Len(uint(level.most)), n); err != nil {
					return err
				}
			}
			raw = raw[end:]
		}
		return r.checkValues(h.encoding, raw, n)
	case meta.DataPageV2:
		if h.repLength < 0 || h.defLength < 0 || h.repLength > int64(len(body)) || h.defLength > int64(len(body))-h.repLength {
			return errors.New("damaged: levels that do not fit the page")
		}
		rep, def, body := body[:h.repLength], body[h.repLength:h.repLength+h.defLength], body[h.repLength+h.defLength:]
		raw := body
		if !h.plain {
			var err error
			if raw, err = r.decompress(body, h.size); err != nil {
				return err
			}
		}
		n, err := count(h.v2Values, len(raw))
		if err != nil {
			return err
		}
		if err := checkRuns(rep, bits.Len(uint(r.column.MaxRepetitionLevel)), n); err != nil {
			return err
		}
		if err := checkRuns(def, bits.Len(uint(r.column.MaxDefinitionLevel)), n); err != nil {
			return err
		}
		return r.checkValues(h.v2Encoding, raw, n)
	}
	return nil // the library knows no others
}

// count is a number of values that a page of so many bytes may have.
func count(values int64, bytes int) (int, error) {
	if values < 0 || values > int64(maxPageValues(bytes)) {
		return 0, fmt.Errorf("damaged: %d values in %d bytes", values, bytes)
	}
	return int(values), nil
}

// plainDictionary is what old writers call RLEDictionary.
const plainDictionary = meta.Encoding(2)

// checkValues looks at the lengths within the values of a page, n at most.
func (r *pageReader) checkValues(e meta.Encoding, raw []byte, n int) error {
	switch e {
	case plainDictionary, meta.RLEDictionary:
		if len(raw) > 0 {
			return checkRuns(raw[1:], int(raw[0]), n)
		}
	case meta.DeltaBinaryPacked, meta.DeltaLengthByteArray:
		const counts = 3 // block size, blocks, values
		var v uint64
		for range counts {
			k := 0
			if v, k = binary.Uvarint(raw); k <= 0 {
				return errors.New("damaged: no count of values")
			}
			raw = raw[k:]
		}
		if v > uint64(n) {
			return fmt.Errorf("damaged: %d values, want at most %d", v, n)
		}
	case meta.DeltaByteArray: // a value of this encoding may repeat all of the one before
		return fmt.Errorf("encoding %s: want plain values or a dictionary", e)
	}
	return nil
}

// checkRuns looks at numbers in the hybrid of runs and packed bits, n of width bits at most. The last group of packed ones
// is filled up.
func checkRuns(b []byte, width, n int) error {
	const group = 8
	if width > 32 {
		return fmt.Errorf("damaged: numbers of %d bits", width)
	}
	total := uint64(0)
	for len(b) > 0 {
		v, k := binary.Uvarint(b)
		if k <= 0 {
			return errors.New("damaged: a run without length")
		}
		b = b[k:]
		length, bytes := v>>1, uint64(width+7)/8
		if v&1 != 0 {
			length, bytes = group*min(v>>1, 1<<40), min(v>>1, 1<<40)*uint64(width)
		}
		if total += min(length, 1<<40); total > uint64(n)+64*group {
			return fmt.Errorf("damaged: a run of %d values, where there are %d", length, n)
		}
		if bytes > uint64(len(b)) {
			return errors.New("damaged: a run that does not fit the page")
		}
		b = b[bytes:]
	}
	return nil
}

// decompress returns the content of a page, which must have the announced size. It is valid until the next call.
func (r *pageReader) decompress(body []byte, size int64) ([]byte, error) {
	if r.codec == meta.Uncompressed {
		return body, nil
	}
	if size > int64(maxPage(len(body))) {
		return nil, fmt.Errorf("%d bytes that become %d: want at most %d", len(body), size, maxPage(len(body)))
	}
	r.raw = slices.Grow(r.raw[:0], int(size))[:size]
	n, err := r.decode(r.raw, body)
	if err != nil {
		return nil, fmt.Errorf("damaged, or larger than the %d bytes announced: %w", size, err)
	}
	return r.raw[:n], nil
}

// decode decompresses body to dst, whose length is the most that it may take.
func (r *pageReader) decode(dst, body []byte) (int, error) {
	switch r.codec {
	case meta.Snappy:
		if n, err := snappy.DecodedLen(body); err != nil || n > len(dst) {
			return 0, errors.Join(err, fmt.Errorf("%d bytes", n))
		}
		b, err := snappy.Decode(dst, body)
		return len(b), err
	case meta.Lz4Raw:
		return lz4.UncompressBlock(body, dst)
	case meta.Zstd:
		if r.zstd == nil {
			var err error
			if r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true)); err != nil {
				return 0, err
			}
		}
		b, err := r.zstd.DecodeAll(body, dst[:0:len(dst)])
		return len(b), err
	case meta.Gzip:
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		return readWhole(z, dst)
	case meta.Brotli:
		return readWhole(brotli.NewReader(bytes.NewReader(body)), dst)
	}
	return 0, fmt.Errorf("compression %s is not supported", r.codec)
}

// readWhole reads all of r, which must fit dst.
func readWhole(r io.Reader, dst []byte) (int, error) {
	n, err := io.ReadFull(r, dst)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, nil
	}
	if err != nil {
		return n, err
	}
	var more [1]byte
	if k, err := io.ReadFull(r, more[:]); k > 0 || !errors.Is(err, io.EOF) {
		return n, errors.Join(errors.New("more bytes"), err)
	}
	return n, nil
}
