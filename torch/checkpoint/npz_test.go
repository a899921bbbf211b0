package checkpoint

import (
	"archive/zip"
	"bytes"
	"io"
	"path/filepath"
	"testing"
)

// The header is what numpy.save writes for these arrays, but for the padding, which readers skip.
func TestWriteNPZ(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	if err := WriteNPZ(path, Uint8Array("arr_0", []uint8{1, 2, 3, 4, 5, 6}, 1, 2, 3), Int64Array("arr_1", []int64{-1, 7}, 2)); err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for i, want := range []struct{ name, header, data string }{
		{"arr_0.npy", "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 3), }", "\x01\x02\x03\x04\x05\x06"},
		{"arr_1.npy", "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }", "\xff\xff\xff\xff\xff\xff\xff\xff\x07\x00\x00\x00\x00\x00\x00\x00"},
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
	if err := WriteNPZ(path, Uint8Array("a", []uint8{1}, 2)); err == nil {
		t.Error("an array that does not fill its shape is written")
	}
}
