package numpy

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/internal/disk"
)

func writeNPZ(path string, arrays ...Array) error {
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

// The header is what numpy.save writes for these arrays, but for the padding, which readers skip.
func TestWriteNPZ(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	if err := writeNPZ(path, uint8Array("arr_0", []uint8{1, 2, 3, 4, 5, 6}, 1, 2, 3),
		Int64Array("arr_1", []int64{-1, 7}, 2)); err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for i, want := range []struct{ name, header, data string }{
		{"arr_0.npy", "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 3), }", "\x01\x02\x03\x04\x05\x06"},
		{"arr_1.npy", "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }",
			"\xff\xff\xff\xff\xff\xff\xff\xff\x07\x00\x00\x00\x00\x00\x00\x00"},
	} {
		f := z.File[i]
		if f.Name != want.name || f.Method != zip.Store {
			t.Errorf("member %d is %s by method %d, want %s stored", i, f.Name, f.Method, want.name)
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		length := int(got[8]) | int(got[9])<<8
		if !bytes.HasPrefix(got, []byte("\x93NUMPY\x01\x00")) || (10+length)%64 != 0 || got[9+length] != '\n' {
			t.Errorf("%s: bad prefix % x", f.Name, got[:10])
		}
		if header := string(bytes.TrimRight(got[10:10+length], " \n")); header != want.header {
			t.Errorf("%s: header %s, want %s", f.Name, header, want.header)
		}
		if string(got[10+length:]) != want.data {
			t.Errorf("%s: data % x, want % x", f.Name, got[10+length:], want.data)
		}
	}
	if err := writeNPZ(path, uint8Array("a", []uint8{1}, 2)); err == nil {
		t.Error("an array that does not fill its shape is written")
	}
}

// An array that comes in parts gives the bytes of one that comes whole.
func TestNPZWriterInParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	pixels := bytes.Repeat([]byte{1, 2, 3, 4, 5}, 4000)
	labels := Int64Array("arr_1", []int64{5, 6}, 2)
	if err := writeNPZ(path, uint8Array("arr_0", pixels, 2, 10000), labels); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := NewNPZWriter(&b)
	f, err := z.BeginUint8("arr_0", 2, 10000)
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(pixels, 777) {
		if _, err := f.Write(part); err != nil {
			t.Fatal(err)
		}
		if n, err := z.Flush(); err != nil || int(n) != b.Len() || !bytes.HasSuffix(b.Bytes(), part) {
			t.Fatalf("%d bytes flushed, %d there (%v)", n, b.Len(), err)
		}
	}
	if err := errors.Join(z.Add(labels), z.Close()); err != nil || !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%d bytes in parts, %d at once, not equal (%v)", b.Len(), len(want), err)
	}
}
