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
		z := zip.NewWriter(w)
		for _, a := range arrays {
			want := 1
			for _, d := range a.shape {
				want *= d
			}
			if a.n != want {
				return fmt.Errorf("array %q: %d elements for shape %v, want %d", a.name, a.n, a.shape, want)
			}
			f, err := z.CreateHeader(&zip.FileHeader{Name: a.name + ".npy", Method: zip.Store})
			if err != nil {
				return err
			}
			if err := a.write(f); err != nil {
				return err
			}
		}
		return z.Close()
	})
}

// write encodes the array as an .npy file of version 1.0: magic, header length, a Python literal
// padded so that the data starts at a multiple of 64, the data in C order.
func (a Array) write(w io.Writer) error {
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
	if _, err := fmt.Fprintf(w, "\x93NUMPY\x01\x00%s%s", binary.LittleEndian.AppendUint16(nil, uint16(len(header))), header); err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, a.data)
}
