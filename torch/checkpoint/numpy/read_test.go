package numpy

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

func TestReadNPZ(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	if err := writeNPZ(path, uint8Array("arr_0", []uint8{1, 2, 3, 4, 5, 6}, 1, 2, 3),
		Int64Array("labels", []int64{-1, 7}, 2)); err != nil {
		t.Fatal(err)
	}
	n, err := OpenNPZ(path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if names := n.Names(); !slices.Equal(names, []string{"arr_0", "labels"}) {
		t.Errorf("names %q", names)
	}
	r, err := n.Open("arr_0")
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(data, []byte{1, 2, 3, 4, 5, 6}) || r.DType != checkpoint.U8 ||
		!slices.Equal(r.Shape, []int64{1, 2, 3}) || r.Name != "arr_0" {
		t.Errorf("%+v: %v, %v", r.Info, data, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := n.Open("mu"); err == nil || !strings.Contains(err.Error(), "no array mu") {
		t.Errorf("an array that is not there: %v", err)
	}
}

// zipOf is an archive with one member.
func zipOf(t testing.TB, name string, content []byte, method uint16) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: method})
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadNPZRefuses(t *testing.T) {
	good := npyOf("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n", 12)
	stored := zipOf(t, "a.npy", good, zip.Store)
	damaged := bytes.Clone(stored)
	damaged[bytes.Index(damaged, good)+len(good)-1] ^= 1
	for want, b := range map[string][]byte{
		"not a .npz file": []byte("PK something else"),
		"cut short":       stored[:len(stored)-30],
		"no array a":      zipOf(t, "b.npy", good, zip.Store),
		"11 bytes of data, want 12 for F32 [3]": zipOf(t, "a.npy", good[:len(good)-1],
			zip.Deflate),
		`elements of type "|O"`: zipOf(t, "a.npy",
			npyOf("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", 8), zip.Store),
		"checksum": damaged,
	} {
		path := filepath.Join(t.TempDir(), "x.npz")
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		err := readAll(path, "a")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func readAll(path, name string) error {
	n, err := OpenNPZ(path)
	if err != nil {
		return err
	}
	defer n.Close()
	r, err := n.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := io.Copy(io.Discard, r)
	if err == nil && got != r.Size {
		return io.ErrUnexpectedEOF
	}
	return err
}

func TestReadNPY(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npy")
	b := npyOf("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1), }\n", 16)
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	r, err := OpenNPY(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil || len(data) != 16 || r.DType != checkpoint.F64 || !slices.Equal(r.Shape, []int64{2, 1}) {
		t.Errorf("%+v: %d bytes, %v", r.Info, len(data), err)
	}
	r.Close()
	if err := os.WriteFile(path, b[:len(b)-1], 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenNPY(path); err == nil || !strings.Contains(err.Error(), "15 bytes of data, want 16") {
		t.Errorf("cut short: %v", err)
	}
	if _, err := OpenNPY(path + "x"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing: %v", err)
	}
}

func FuzzReadNPZ(f *testing.F) {
	good := npyOf("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n", 12)
	f.Add(zipOf(f, "a.npy", good, zip.Store))
	f.Add(zipOf(f, "a.npy", good, zip.Deflate))
	path := filepath.Join(f.TempDir(), "x.npz")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		n, err := OpenNPZ(path)
		if err != nil {
			return
		}
		names := n.Names()
		n.Close()
		for _, name := range names {
			readAll(path, name) // no panic, and no more than the header says
		}
	})
}
