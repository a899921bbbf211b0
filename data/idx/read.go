package idx

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The kinds of files, by the number they begin with.
const (
	Images = 0x00000803
	Labels = 0x00000801
)

// KindOf returns the number that a file begins with, behind gzip if that is what it is, or 0.
func KindOf(f io.Reader) uint32 {
	r, _, err := unzip(f)
	if err != nil {
		return 0
	}
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0
	}
	return binary.BigEndian.Uint32(b[:])
}

// unzip reads f through gzip if it begins as such a file does.
func unzip(f io.Reader) (r io.Reader, zipped bool, err error) {
	b := bufio.NewReaderSize(f, 1<<16)
	if head, _ := b.Peek(2); !bytes.Equal(head, []byte{0x1f, 0x8b}) {
		return b, false, nil
	}
	r, err = gzip.NewReader(b)
	return r, true, err
}

// Read reads a whole file of a kind, which has size bytes as stored. What the header claims is checked against the size
// before it is believed: exactly for a plain file, and by the best ratio deflate can reach for a compressed one. A
// picture of more than maxPixels is an error.
func Read(f io.Reader, size int64, kind uint32, maxPixels int64) (dims []int, elements []byte, err error) {
	r, zipped, err := unzip(f)
	if err != nil {
		return nil, nil, fmt.Errorf("gzip: %w", err)
	}
	rank := int(kind & 0xff)
	header := make([]byte, 4+4*rank)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, nil, fmt.Errorf("ends inside its header of %d bytes", len(header))
	}
	if m := binary.BigEndian.Uint32(header); m != kind {
		return nil, nil, fmt.Errorf("magic %#08x, want %#08x (bytes, %d dimensions)", m, kind, rank)
	}
	limit := size - int64(len(header))
	if zipped {
		const maxRatio = 1032
		limit = size * maxRatio
	}
	total := int64(1)
	for i := range rank {
		d := int64(binary.BigEndian.Uint32(header[4+4*i:]))
		dims = append(dims, int(d))
		if d == 0 {
			return nil, nil, fmt.Errorf("dimension %d is 0", i)
		}
		if total > limit/d {
			return nil, nil, fmt.Errorf("truncated: the header promises more than the %d bytes of the file can hold",
				size)
		}
		total *= d
		if i > 0 && total/int64(dims[0]) > maxPixels {
			return nil, nil, fmt.Errorf("pictures of more than %d pixels", maxPixels)
		}
	}
	if !zipped && total != limit {
		return nil, nil, fmt.Errorf("%d bytes, want %d for dimensions %v", size, total+int64(len(header)), dims)
	}
	elements = make([]byte, total)
	if n, err := io.ReadFull(r, elements); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil, fmt.Errorf("truncated: %d of %d elements", n, total)
		}
		return nil, nil, err
	}
	// Reading on to the end makes gzip check its sum.
	var more [1]byte
	switch n, err := io.ReadFull(r, more[:]); {
	case n > 0:
		return nil, nil, fmt.Errorf("goes on after the %d elements of dimensions %v", total, dims)
	case !errors.Is(err, io.EOF):
		return nil, nil, fmt.Errorf("truncated: %w", err)
	}
	return dims, elements, nil
}
