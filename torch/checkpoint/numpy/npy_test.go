package numpy

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

func TestNPY(t *testing.T) {
	for _, want := range []checkpoint.Tensor{
		{Info: checkpoint.Info{DType: checkpoint.F32, Shape: []int64{2, 3}}, Data: bytes.Repeat([]byte{1, 2, 3, 4}, 6)},
		{Info: checkpoint.Info{DType: checkpoint.I64, Shape: []int64{1}}, Data: make([]byte, 8)},
		{Info: checkpoint.Info{DType: checkpoint.U8, Shape: nil}, Data: []byte{7}},
		{Info: checkpoint.Info{DType: checkpoint.F16, Shape: []int64{0, 4}}, Data: nil},
	} {
		var b bytes.Buffer
		if err := EncodeNPY(&b, want); err != nil {
			t.Fatal(err)
		}
		got, err := ParseNPY(b.Bytes())
		if err != nil || got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) ||
			!bytes.Equal(got.Data, want.Data) {
			t.Errorf("%+v, %v: want %+v", got, err, want)
		}
	}
	if err := EncodeNPY(&bytes.Buffer{},
		checkpoint.Tensor{Info: checkpoint.Info{DType: checkpoint.F32, Shape: []int64{2}},
			Data: make([]byte, 4)}); err == nil {
		t.Error("too few bytes were written")
	}
}

// npyOf is a file with a header.
func npyOf(header string, data int) []byte {
	return append([]byte(magic+"\x01\x00"+string([]byte{byte(len(header)), byte(len(header) >> 8)})+header),
		make([]byte, data)...)
}

func TestNPYRefuses(t *testing.T) {
	for want, b := range map[string][]byte{
		"does not begin":  []byte("PK\x03\x04 something else"),
		"cut short":       []byte(magic + "\x01\x00\xff\x00{'descr'"),
		`type "|O": want`: npyOf("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", 8),
		"Fortran order":   npyOf("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }\n", 4),
		"want descr":      npyOf("__import__('os').system('x')\n", 4),
		"8 bytes of data": npyOf("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", 8),
		"shape (99999999999,": npyOf(
			"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }\n", 8),
	} {
		if _, err := ParseNPY(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func FuzzNPY(f *testing.F) {
	f.Add(npyOf("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n", 8))
	f.Add(npyOf("{'descr': '<i8', 'fortran_order': False, 'shape': (), }\n", 8))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseNPY(b)
		if err != nil {
			return
		}
		n := int64(a.DType.Size())
		for _, d := range a.Shape {
			n *= d
		}
		if n != int64(len(a.Data)) {
			t.Errorf("%d bytes for %s %v", len(a.Data), a.DType, a.Shape)
		}
	})
}
