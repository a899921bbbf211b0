package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// npyTypes are NumPy's names of the element types that are read and written.
var npyTypes = map[string]DType{"<f4": F32, "<f2": F16, "<i8": I64, "<i4": I32, "|u1": U8}

const npyMagic = "\x93NUMPY"

// npyHeader is the literal that every version of NumPy writes; others are not read.
var npyHeader = regexp.MustCompile(
	`^\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \}\s*$`)

// ParseNPY returns the array in the bytes of a .npy file, in C order. Data is part of b.
func ParseNPY(b []byte) (Tensor, error) {
	fail := func(format string, args ...any) (Tensor, error) {
		return Tensor{}, fmt.Errorf("npy: "+format, args...)
	}
	if len(b) < 10 || string(b[:6]) != npyMagic {
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
	m := npyHeader.FindSubmatch(b[at : at+length])
	if m == nil {
		return fail("header %.100q: want descr, fortran_order and shape", b[at:at+length])
	}
	t := Tensor{Info: Info{DType: npyTypes[string(m[1])]}, Data: b[at+length:]}
	if t.DType == "" {
		return fail("elements of type %q: want <f4, <f2, <i8, <i4 or |u1", m[1])
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
		t.Shape = append(t.Shape, d)
	}
	t.Size = n * int64(t.DType.Size())
	if int64(len(t.Data)) != t.Size {
		return fail("%d bytes of data, want %d for %s %v", len(t.Data), t.Size, t.DType, t.Shape)
	}
	return t, nil
}

// EncodeNPY writes t, its name left out, as a .npy file.
func EncodeNPY(w io.Writer, t Tensor) error {
	for descr, dtype := range npyTypes {
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
		var header bytes.Buffer
		if err := (Array{descr: descr, shape: shape}).writeHeader(&header); err != nil {
			return err
		}
		_, err := w.Write(append(header.Bytes(), t.Data...))
		return err
	}
	return errors.New("npy: elements of type " + string(t.DType))
}
