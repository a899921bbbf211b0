package checkpoint

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

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

// Uint8Array names data of the given shape for [WriteNPZ].
func Uint8Array(name string, data []uint8, shape ...int) Array {
	return Array{name, "|u1", shape, data, len(data)}
}

// Int64Array names data of the given shape for [WriteNPZ].
func Int64Array(name string, data []int64, shape ...int) Array {
	return Array{name, "<i8", shape, data, len(data)}
}

// WriteNPZ writes arrays as numpy.savez does: an uncompressed zip of .npy members. The file appears
// whole or not at all.
func WriteNPZ(path string, arrays ...Array) error {
	return disk.WriteFile(path, func(w io.Writer) error {
		z := NewNPZWriter(w)
		for _, a := range arrays {
			if err := z.Add(a); err != nil {
				return err
			}
		}
		return z.Close()
	})
}

// An NPZWriter writes the bytes of [WriteNPZ] one array after the other, those of an array in parts if need be.
// Equal calls write equal bytes, however the parts were cut.
type NPZWriter struct {
	out *countingWriter
	z   *zip.Writer
}

// NewNPZWriter starts a file on w.
func NewNPZWriter(w io.Writer) *NPZWriter {
	out := &countingWriter{w: w}
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
	return n.begin(Uint8Array(name, nil, shape...))
}

func (n *NPZWriter) begin(a Array) (io.Writer, error) {
	f, err := n.z.CreateHeader(&zip.FileHeader{Name: a.name + ".npy", Method: zip.Store})
	if err == nil {
		err = a.writeHeader(f)
	}
	return f, err
}

// Flush passes on all bytes so far, and returns their number.
func (n *NPZWriter) Flush() (int64, error) {
	err := n.z.Flush()
	return n.out.n, err
}

// Close ends the file.
func (n *NPZWriter) Close() error { return n.z.Close() }

// writeHeader writes what stands before the data in an .npy file of version 1.0: magic, header length, a Python literal
// padded so that the data, which is in C order, starts at a multiple of 64.
func (a Array) writeHeader(w io.Writer) error {
	dims := make([]string, len(a.shape))
	for i, d := range a.shape {
		dims[i] = fmt.Sprint(d)
	}
	shape := strings.Join(dims, ", ")
	if len(dims) == 1 {
		shape += ","
	}
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", a.descr, shape)
	const prefix = 10
	header += strings.Repeat(" ", 63-(prefix+len(header))%64) + "\n"
	_, err := fmt.Fprintf(w, "\x93NUMPY\x01\x00%s%s", binary.LittleEndian.AppendUint16(nil, uint16(len(header))),
		header)
	return err
}
