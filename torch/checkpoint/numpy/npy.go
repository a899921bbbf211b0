// Package numpy reads and writes the files of NumPy: one array (.npy), and several in a zip archive (.npz). Like
// package checkpoint it trusts no size that a file states.
package numpy

import (
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

// types are NumPy's names of the element types that are read and written.
var types = map[string]checkpoint.DType{"<f4": checkpoint.F32, "<f2": checkpoint.F16, "<i8": checkpoint.I64,
	"<i4": checkpoint.I32, "|u1": checkpoint.U8, "<f8": checkpoint.F64}

const magic = "\x93NUMPY"

// headerForm is the literal that every version of NumPy writes; others are not read.
var headerForm = regexp.MustCompile(
	`^\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \}\s*$`)

// maxHeader is above any header of an array of numbers.
const maxHeader = 1 << 16

// ParseNPY returns the array in the bytes of a .npy file, in C order. Data is part of b.
func ParseNPY(b []byte) (checkpoint.Tensor, error) {
	info, at, err := parseHeader(b)
	if err != nil {
		return checkpoint.Tensor{}, err
	}
	t := checkpoint.Tensor{Info: info, Data: b[at:]}
	return t, checkSize(info, int64(len(t.Data)))
}

// checkSize is an error where an array is followed by another number of bytes than its header says.
func checkSize(info checkpoint.Info, n int64) error {
	if n != info.Size {
		return fmt.Errorf("npy: %d bytes of data, want %d for %s %v", n, info.Size, info.DType, info.Shape)
	}
	return nil
}

// parseHeader reads the header of an array at the beginning of b, and says where its data begin.
func parseHeader(b []byte) (info checkpoint.Info, at int, err error) {
	fail := func(format string, args ...any) (checkpoint.Info, int, error) {
		return checkpoint.Info{}, 0, fmt.Errorf("npy: "+format, args...)
	}
	if len(b) < 10 || string(b[:6]) != magic {
		return fail("it does not begin as a NumPy array does")
	}
	at, length := 10, int(binary.LittleEndian.Uint16(b[8:]))
	if b[6] >= 2 {
		if len(b) < 12 {
			return fail("the header is cut short")
		}
		at, length = 12, int(min(binary.LittleEndian.Uint32(b[8:]), 1<<20))
	}
	if length > len(b)-at {
		return fail("the header is cut short")
	}
	m := headerForm.FindSubmatch(b[at : at+length])
	if m == nil {
		return fail("header %.100q: want descr, fortran_order and shape", b[at:at+length])
	}
	info.DType = types[string(m[1])]
	if info.DType == "" {
		return fail("elements of type %q: want <f4, <f2, <f8, <i8, <i4 or |u1", m[1])
	}
	if string(m[2]) == "True" {
		return fail("Fortran order: want C order")
	}
	n := int64(1)
	for field := range strings.SplitSeq(string(m[3]), ",") {
		if field = strings.TrimSpace(field); field == "" {
			continue
		}
		d, err := strconv.ParseInt(field, 10, 64)
		if err != nil || d < 0 || d > 0 && n > (1<<40)/d {
			return fail("shape (%s)", m[3])
		}
		n *= d
		info.Shape = append(info.Shape, d)
	}
	info.Size = n * int64(info.DType.Size())
	return info, at + length, nil
}

// EncodeNPY writes t, its name left out, as a .npy file.
func EncodeNPY(w io.Writer, t checkpoint.Tensor) error {
	for descr, dtype := range types {
		if dtype != t.DType {
			continue
		}
		var shape []int
		n := t.DType.Size()
		for _, d := range t.Shape {
			shape = append(shape, int(d))
			n *= int(d)
		}
		if n != len(t.Data) {
			return fmt.Errorf("npy: %d bytes of data, want %d for %s %v", len(t.Data), n, t.DType, t.Shape)
		}
		if err := writeHeader(w, descr, shape); err != nil {
			return err
		}
		_, err := w.Write(t.Data)
		return err
	}
	return fmt.Errorf("npy: elements of type %s", t.DType)
}

// writeHeader writes what stands before the data in an .npy file of version 1.0: magic, header length, a Python literal
// padded so that the data, which is in C order, starts at a multiple of 64.
func writeHeader(w io.Writer, descr string, shape []int) error {
	dims := make([]string, len(shape))
	for i, d := range shape {
		dims[i] = fmt.Sprint(d)
	}
	tuple := strings.Join(dims, ", ")
	if len(dims) == 1 {
		tuple += ","
	}
	header := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, tuple)
	const prefix = 10
	header += strings.Repeat(" ", 63-(prefix+len(header))%64) + "\n"
	_, err := fmt.Fprintf(w, "\x93NUMPY\x01\x00%s%s", binary.LittleEndian.AppendUint16(nil, uint16(len(header))),
		header)
	return err
}
