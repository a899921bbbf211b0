package numpy

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ditrun/ditrun/internal/disk"
)

// An Array is a member of an .npz file.
type Array struct {
	name  string
	descr string // NumPy's name of the element type
	shape []int
	data  any // a slice of fixed-size numbers
	n     int
}

// Int64Array names data of the given shape, for [NPZWriter.Add].
func Int64Array(name string, data []int64, shape ...int) Array {
	return Array{name, "<i8", shape, data, len(data)}
}

func uint8Array(name string, data []uint8, shape ...int) Array {
	return Array{name, "|u1", shape, data, len(data)}
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
	want := 1
	for _, d := range a.shape {
		want *= d
	}
	if a.n != want {
		return fmt.Errorf("array %q: %d elements for shape %v, want %d", a.name, a.n, a.shape, want)
	}
	f, err := n.begin(a)
	if err != nil {
		return err
	}
	return binary.Write(f, binary.LittleEndian, a.data)
}

// BeginUint8 starts an array of bytes of the given shape. The caller writes all of them, before the next array.
func (n *NPZWriter) BeginUint8(name string, shape ...int) (io.Writer, error) {
	return n.begin(uint8Array(name, nil, shape...))
}

func (n *NPZWriter) begin(a Array) (io.Writer, error) {
	f, err := n.z.CreateHeader(&zip.FileHeader{Name: a.name + ".npy", Method: zip.Store})
	if err == nil {
		err = writeHeader(f, a.descr, a.shape)
	}
	return f, err
}

// Flush passes on all bytes so far, and returns their number.
func (n *NPZWriter) Flush() (int64, error) {
	err := n.z.Flush()
	return n.out.N, err
}

// Close ends the file.
func (n *NPZWriter) Close() error { return n.z.Close() }
