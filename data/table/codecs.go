package table

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	meta "github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// decompress returns the content of a page, which must have the announced size. It is valid until the next call.
func (r *pageReader) decompress(body []byte, size int64) ([]byte, error) {
	if r.codec == meta.Uncompressed || len(body) == 0 { // of nulls alone some writers compress nothing
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

// canDecompress says whether decode knows a codec.
func canDecompress(c meta.CompressionCodec) bool {
	switch c {
	case meta.Uncompressed, meta.Snappy, meta.Lz4Raw, meta.Zstd, meta.Gzip, meta.Brotli:
		return true
	}
	return false
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
			if r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
				zstd.WithDecodeAllCapLimit(true)); err != nil {
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
