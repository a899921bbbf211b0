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
	"github.com/ditrun/ditrun/torch/checkpoint"
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

// What an output has already is skipped, with its checksum; the output is the one of an array that came whole.
func TestNPZWriterSkips(t *testing.T) {
	pixels := bytes.Repeat([]byte{1, 2, 3, 4, 5}, 1<<20)
	labels := Int64Array("arr_1", []int64{5, 6}, 2)
	var whole bytes.Buffer
	z := NewNPZWriter(&whole)
	m, err := z.BeginUint8("arr_0", len(pixels))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Write(pixels[:1000]); err != nil {
		t.Fatal(err)
	}
	begun, err := z.Flush()
	sum := m.CRC32()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Write(pixels[1000:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(z.Add(labels), z.Close()); err != nil {
		t.Fatal(err)
	}
	skipped := bytes.Clone(whole.Bytes()[:begun])
	z = NewNPZWriter(writerFunc(func(p []byte) (int, error) {
		drop := min(begun, int64(len(p)))
		begun -= drop
		skipped = append(skipped, p[drop:]...)
		return len(p), nil
	}))
	if m, err = z.BeginUint8("arr_0", len(pixels)); err != nil {
		t.Fatal(err)
	}
	if err := m.Skip(1000, sum); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Write(pixels[1000:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(z.Add(labels), z.Close()); err != nil || !bytes.Equal(skipped, whole.Bytes()) {
		t.Errorf("%d bytes, want %d, not equal (%v)", len(skipped), whole.Len(), err)
	}
}

// The file is the one that zip's own writer makes, as earlier versions did: what they began can be continued.
func TestNPZIsPlainZip(t *testing.T) {
	var got, want bytes.Buffer
	n := NewNPZWriter(&got)
	m, err := n.BeginUint8("arr_0", 2, 500)
	if err != nil {
		t.Fatal(err)
	}
	pixels := bytes.Repeat([]byte{7, 8}, 500)
	if _, err := m.Write(pixels); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.Add(Int64Array("arr_1", []int64{5, 6}, 2)), n.Close()); err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(&want)
	add := func(name string, dtype checkpoint.DType, data []byte, shape ...int64) error {
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			return err
		}
		return EncodeNPY(f, checkpoint.Tensor{Info: checkpoint.Info{DType: dtype, Shape: shape}, Data: data})
	}
	err = errors.Join(add("arr_0.npy", checkpoint.U8, pixels, 2, 500),
		add("arr_1.npy", checkpoint.I64, []byte{5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0}, 2), z.Close())
	if err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes, zip's own writer makes %d others (%v)", got.Len(), want.Len(), err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// An array of more than 4 GiB has its sizes in 64 bits, and a reader finds what stands behind it.
func TestNPZBeyond4GiB(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const n = 5 << 30
	at := int64(0)
	z := NewNPZWriter(writerFunc(func(p []byte) (int, error) { // a file with a hole for the pixels
		if len(p) < 1<<16 {
			if _, err := f.WriteAt(p, at); err != nil {
				return 0, err
			}
		}
		at += int64(len(p))
		return len(p), nil
	}))
	m, err := z.BeginUint8("arr_0", 5, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Skip(n, m.CRC32()), z.Add(Int64Array("arr_1", []int64{5, 6}, 2)), z.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if len(r.File) != 2 || r.File[0].UncompressedSize64 != n+128 || r.File[0].ReaderVersion != 45 {
		t.Fatalf("%d files, the first %+v", len(r.File), r.File[0].FileHeader)
	}
	second, err := r.File[1].Open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(second)
	if a, err1 := ParseNPY(b); err != nil || err1 != nil || a.Data[8] != 6 {
		t.Errorf("the second array: %v, %v", err, err1)
	}
}
