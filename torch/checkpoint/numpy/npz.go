package numpy

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/ditrun/ditrun/internal/disk"
)

// An Array is a member of an .npz file.
type Array struct {
	name  string
	descr string // NumPy's name of the element type
	shape []int
	width int // bytes of an element
	data  any // a slice of fixed-size numbers
	n     int
}

// Int64Array names data of the given shape, for [NPZWriter.Add].
func Int64Array(name string, data []int64, shape ...int) Array {
	return Array{name, "<i8", shape, 8, data, len(data)}
}

func uint8Array(name string, data []uint8, shape ...int) Array {
	return Array{name, "|u1", shape, 1, data, len(data)}
}

// An NPZWriter writes arrays as numpy.savez does, an uncompressed zip of .npy members: one after the other, an array in
// parts if need be. Equal arrays give equal bytes, however the parts were cut.
type NPZWriter struct {
	out *disk.Counter
	z   *zip.Writer
}

// NewNPZWriter starts a file on w.
func NewNPZWriter(w io.Writer) *NPZWriter {
	out := &disk.Counter{W: w}
	return &NPZWriter{out, zip.NewWriter(out)}
}

// Add writes a whole array.
func (n *NPZWriter) Add(a Array) error {
	if want := product(a.shape); a.n != want {
		return fmt.Errorf("array %q: %d elements for shape %v, want %d", a.name, a.n, a.shape, want)
	}
	f, err := n.begin(a)
	if err != nil {
		return err
	}
	return binary.Write(f, binary.LittleEndian, a.data)
}

// BeginUint8 starts an array of bytes of the given shape. The caller writes all of them, before the next array.
func (n *NPZWriter) BeginUint8(name string, shape ...int) (*Member, error) {
	return n.begin(uint8Array(name, nil, shape...))
}

func (n *NPZWriter) begin(a Array) (*Member, error) {
	var head bytes.Buffer
	if err := writeHeader(&head, a.descr, a.shape); err != nil {
		return nil, err
	}
	size := uint64(head.Len() + product(a.shape)*a.width)
	// Raw, so that Skip can do without the bytes. The sizes and the sum stand behind the bytes and in the directory.
	const dataDescriptor, version, version64 = 0x8, 20, 45
	h := &zip.FileHeader{Name: a.name + ".npy", Method: zip.Store, Flags: dataDescriptor, CreatorVersion: version,
		ReaderVersion: version, CompressedSize64: size, UncompressedSize64: size}
	w, err := n.z.CreateRaw(h)
	if err != nil {
		return nil, err
	}
	if size >= math.MaxUint32 {
		h.ReaderVersion = version64
	}
	m := &Member{w, h}
	_, err = m.Write(head.Bytes())
	return m, err
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// A Member takes the elements of an array.
type Member struct {
	w io.Writer
	h *zip.FileHeader
}

// Write implements [io.Writer].
func (m *Member) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.h.CRC32 = crc32.Update(m.h.CRC32, crc32.IEEETable, p[:n])
	return n, err
}

// CRC32 is the checksum (IEEE) of the array so far, header included.
func (m *Member) CRC32() uint32 { return m.h.CRC32 }

// Skip counts n bytes as written that the output holds already; with them the array has the given checksum. In their
// place zeros are passed on, for the output to drop.
func (m *Member) Skip(n int64, crc32 uint32) error {
	zeros := make([]byte, 1<<20)
	for n > 0 {
		k, err := m.w.Write(zeros[:min(n, int64(len(zeros)))])
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	m.h.CRC32 = crc32
	return nil
}

// Flush passes on all bytes so far, and returns their number.
func (n *NPZWriter) Flush() (int64, error) {
	err := n.z.Flush()
	return n.out.N, err
}

// Close ends the file.
func (n *NPZWriter) Close() error { return n.z.Close() }
