package archive

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// MaxUnpacked bounds what a compressed file of pictures may grow to: they are compressed already.
func MaxUnpacked(size int64) int64 { return 200*size + 1<<26 }

// Gunzip writes what a gzip file of size bytes holds, at most [MaxUnpacked].
func Gunzip(ctx context.Context, f io.ReaderAt, size int64, out io.Writer) error {
	r, err := gzip.NewReader(buffered(f, size))
	if err != nil {
		return err
	}
	return copyAll(ctx, out, r, size)
}

// Unzstd writes what a zstd file of size bytes holds, at most [MaxUnpacked].
func Unzstd(ctx context.Context, f io.ReaderAt, size int64, out io.Writer) error {
	r, err := zstd.NewReader(buffered(f, size), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return err
	}
	defer r.Close()
	return copyAll(ctx, out, r, size)
}

func buffered(f io.ReaderAt, size int64) io.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 1<<22)
}

// copyAll copies what size bytes are decompressed to.
func copyAll(ctx context.Context, out io.Writer, r io.Reader, size int64) error {
	for total := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(out, r, 1<<24)
		if total += n; total > MaxUnpacked(size) {
			return fmt.Errorf("%d bytes unpack to more than %d", size, MaxUnpacked(size))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("truncated: the compressed data of %d bytes end early", size)
		}
		if err != nil {
			return err
		}
	}
}
