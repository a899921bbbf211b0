package table

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	meta "github.com/parquet-go/parquet-go/format"
)

// The parquet library makes room for whatever a file says: the length of its footer, the elements of lists, the
// sizes of pages before and after decompression, values in a page, runs of one value. What is here compares these
// with the bytes that there are, before the library sees them.

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

// A Column is a leaf column of a table.
type Column struct {
	parquet.LeafColumn
	Name string
}

// ColumnAt returns leaf column i.
func ColumnAt(file *File, i int) (Column, error) {
	path := file.Schema().Columns()[i]
	leaf, ok := file.Schema().Lookup(path...)
	name := strings.Join(path, ".")
	if !ok || leaf.ColumnIndex != i {
		return Column{}, fmt.Errorf("damaged: no column %s", name)
	}
	return Column{leaf, name}, nil
}

// Kind is the physical type of the column.
func (c *Column) Kind() parquet.Kind { return c.Node.Type().Kind() }

// Pages returns the pages of the column in row group i, each of which is checked before the library reads it.
func (c *Column) Pages(f io.ReaderAt, size int64, file *File, i int) (*parquet.FilePages, error) {
	chunks, metas := file.RowGroups()[i].ColumnChunks(), file.stored.RowGroups[i].Columns
	if c.ColumnIndex >= min(len(chunks), len(metas)) {
		return nil, fmt.Errorf("damaged: a row group without column %s", c.Name)
	}
	chunk, ok := chunks[c.ColumnIndex].(*parquet.FileColumnChunk)
	if !ok {
		return nil, fmt.Errorf("damaged: column %s is not in the file", c.Name)
	}
	info := &metas[c.ColumnIndex].MetaData
	first := info.DataPageOffset
	if info.DictionaryPageOffset != 0 {
		first = info.DictionaryPageOffset
	}
	length := info.TotalCompressedSize
	if first < 4 || length < 0 || first > size || length > size-first {
		return nil, fmt.Errorf("damaged: column %s takes %d bytes from %d of %d", c.Name, length, first, size)
	}
	if !canDecompress(info.Codec) {
		return nil, fmt.Errorf(
			"column %s: compression %s is not supported: write the table again with another, such as zstd",
			c.Name, info.Codec)
	}
	return chunk.PagesFrom(&pageReader{f: f, column: c, codec: info.Codec, next: first, end: first + length}), nil
}

// pageReader reads a column of a row group from its start, one whole page after the other, checks each and hands it to
// the library without its compression. The library's own way with compressed pages is not taken: with LZ4_RAW it leaves
// a page empty whose content has just the announced size, and it takes the codec of the first row group for all.
type pageReader struct {
	f      io.ReaderAt
	column *Column
	codec  meta.CompressionCodec

	page      []byte // with its header, as the library sees it
	at        int64  // where page begins for the library
	next, end int64  // where the next page begins in the file, and where the last ends
	stored    []byte // the page as it is in the file
	raw       []byte // a page that was decompressed
	zstd      *zstd.Decoder
}

// ReadAt reads on: the library reads pages in their order, from 0.
func (r *pageReader) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		switch i := off + int64(n) - r.at; {
		case i >= 0 && i < int64(len(r.page)):
			n += copy(p[n:], r.page[i:])
		case i != int64(len(r.page)):
			return n, fmt.Errorf("damaged: column %s has no page at %d", r.column.Name, off+int64(n))
		case r.next == r.end:
			return n, io.EOF
		default:
			at := r.next
			r.at += int64(len(r.page))
			if err := r.load(); err != nil {
				return n, fmt.Errorf("column %s: page at %d: %w", r.column.Name, at, err)
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
	r.page = nil
	var h pageHeader
	var head int
	for most := min(left, 4096); ; most = min(left, 16*most) {
		r.stored = slices.Grow(r.stored[:0], int(most))[:most]
		if n, err := r.f.ReadAt(r.stored, r.next); n < len(r.stored) {
			return fmt.Errorf("truncated after %d of %d bytes: %w", n, most, err)
		}
		var err error
		if head, err = h.read(r.stored); err == nil {
			break
		}
		if !errors.Is(err, errThriftShort) || most == left || most >= maxPageHeader {
			return fmt.Errorf("damaged: header: %w", err)
		}
	}
	if h.size < 0 || h.compressed < 0 || h.compressed > left-int64(head) {
		return fmt.Errorf("damaged: %d bytes, %d decompressed, where there are %d", h.compressed, h.size,
			left-int64(head))
	}
	have := len(r.stored)
	total := head + int(h.compressed)
	r.stored = slices.Grow(r.stored, max(0, total-have))[:total]
	if have < total {
		if n, err := r.f.ReadAt(r.stored[have:], r.next+int64(have)); n < total-have {
			return fmt.Errorf("truncated after %d of %d bytes: %w", have+n, total, err)
		}
	}
	content, err := r.check(&h, r.stored[head:])
	if err != nil {
		return err
	}
	if r.page, err = r.plainPage(r.stored[:head], r.stored[head:], content); err != nil {
		return err
	}
	r.next += int64(total)
	return nil
}

// plainPage is a page of the given header that holds content in the place of body. They may share memory.
func (r *pageReader) plainPage(header, body, content []byte) ([]byte, error) {
	if r.codec == meta.Uncompressed {
		return r.stored, nil
	}
	var h meta.PageHeader
	if err := thrift.Unmarshal(new(thrift.CompactProtocol), header, &h); err != nil {
		return nil, fmt.Errorf("damaged: header: %w", err)
	}
	if h.CRC != 0 && crc32.ChecksumIEEE(body) != uint32(h.CRC) {
		return nil, errors.New("damaged: checksum mismatch")
	}
	if len(content) > math.MaxInt32 {
		return nil, fmt.Errorf("%d bytes: want at most %d", len(content), math.MaxInt32)
	}
	h.CRC, h.CompressedPageSize, h.UncompressedPageSize = 0, int32(len(content)), int32(len(content))
	h.DataPageHeader.V.Statistics = meta.Statistics{}
	h.DataPageHeaderV2.V.Statistics = meta.Statistics{}
	if h.DataPageHeaderV2.Valid {
		h.DataPageHeaderV2.V.IsCompressed = thrift.New(false)
	}
	b, err := thrift.Marshal(new(thrift.CompactProtocol), &h)
	if err != nil {
		return nil, fmt.Errorf("damaged: header: %w", err)
	}
	return append(b, content...), nil
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

// check compares what a page announces with what it holds, and returns that without its compression.
func (r *pageReader) check(h *pageHeader, body []byte) ([]byte, error) {
	switch h.kind {
	case meta.DictionaryPage:
		raw, err := r.decompress(body, h.size)
		if err != nil {
			return nil, err
		}
		if h.dictionaryValues < 0 || h.dictionaryValues > int64(len(raw)/4) { // a length or a number of four bytes each
			return nil, fmt.Errorf("damaged: a dictionary of %d values in %d bytes", h.dictionaryValues, len(raw))
		}
		return raw, nil
	case meta.DataPage:
		content, err := r.decompress(body, h.size)
		if err != nil {
			return nil, err
		}
		raw := content
		n, err := count(h.values, len(raw))
		if err != nil {
			return nil, err
		}
		for _, level := range []struct {
			most     int
			encoding meta.Encoding
		}{{r.column.MaxRepetitionLevel, h.repEncoding}, {r.column.MaxDefinitionLevel, h.defEncoding}} {
			if level.most == 0 {
				continue
			}
			if len(raw) < 4 || int64(binary.LittleEndian.Uint32(raw)) > int64(len(raw)-4) {
				return nil, errors.New("damaged: levels that do not fit the page")
			}
			end := 4 + int(binary.LittleEndian.Uint32(raw))
			if level.encoding == meta.RLE {
				if err := checkRuns(raw[4:end], bits.Len(uint(level.most)), n); err != nil {
					return nil, err
				}
			}
			raw = raw[end:]
		}
		return content, r.checkValues(h.encoding, raw, n)
	case meta.DataPageV2:
		if h.repLength < 0 || h.defLength < 0 || h.repLength > int64(len(body)) ||
			h.defLength > int64(len(body))-h.repLength {
			return nil, errors.New("damaged: levels that do not fit the page")
		}
		rep, def, values := body[:h.repLength], body[h.repLength:h.repLength+h.defLength],
			body[h.repLength+h.defLength:]
		raw := values
		if !h.plain {
			var err error
			if raw, err = r.decompress(values, h.size); err != nil {
				return nil, err
			}
		}
		n, err := count(h.v2Values, len(raw))
		if err != nil {
			return nil, err
		}
		if err := checkRuns(rep, bits.Len(uint(r.column.MaxRepetitionLevel)), n); err != nil {
			return nil, err
		}
		if err := checkRuns(def, bits.Len(uint(r.column.MaxDefinitionLevel)), n); err != nil {
			return nil, err
		}
		return slices.Concat(rep, def, raw), r.checkValues(h.v2Encoding, raw, n)
	}
	return body, nil // the library knows no others
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
		return fmt.Errorf("encoding %s: want plain values or a dictionary: "+
			"write the table again (pyarrow: use_dictionary=True, no column_encoding)", e)
	}
	return nil
}

// checkRuns looks at numbers in the hybrid of runs and packed bits, n of width bits at most. The last group of
// packed ones is filled up.
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
