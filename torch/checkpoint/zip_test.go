package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// A sparse file is one of which only what is not zero is kept.
type sparse struct {
	size   int64
	pieces map[int64][]byte // by offset
}

const sparsePiece = 1 << 20 // writes of as many bytes are of zeros

func (f *sparse) Write(p []byte) (int, error) {
	if len(p) < sparsePiece {
		f.pieces[f.size] = bytes.Clone(p)
	}
	f.size += int64(len(p))
	return len(p), nil
}

func (f *sparse) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > f.size {
		return 0, fmt.Errorf("read at %d of %d", off, f.size)
	}
	clear(p)
	for at, piece := range f.pieces {
		if lo, hi := max(at, off), min(at+int64(len(piece)), off+int64(len(p))); lo < hi {
			copy(p[lo-off:], piece[lo-at:hi-at])
		}
	}
	if int64(len(p)) > f.size-off {
		return int(f.size - off), io.EOF
	}
	return len(p), nil
}

// The data of a member end before the directory, whatever its entry there says.
func TestZipDataRunIntoTheDirectory(t *testing.T) {
	const comment = 60000
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "x/data.pkl"})
	if err == nil {
		_, err = io.WriteString(w, "data")
	}
	if err = errors.Join(err, z.SetComment(strings.Repeat(" ", comment)), z.Close()); err != nil {
		t.Fatal(err)
	}
	file := b.Bytes()
	directory := bytes.Index(file, []byte("PK\x01\x02"))
	data := 30 + len("x/data.pkl")
	read := func(size int) error {
		binary.LittleEndian.PutUint32(file[directory+20:], uint32(size))
		binary.LittleEndian.PutUint32(file[directory+24:], uint32(size))
		_, err := readZip(bytes.NewReader(file), int64(len(file)))
		return err
	}
	if err := read(directory - data); err != nil {
		t.Errorf("data up to the directory: %v", err)
	}
	for _, size := range []int{directory - data + 1, directory - data + 22, directory - data + comment} {
		if err := read(size); err == nil || !strings.Contains(err.Error(), "run into the directory") {
			t.Errorf("%d bytes at %d, directory at %d: %v", size, data, directory, err)
		}
	}
}

// A file beyond the four gigabytes of plain zip opens with a look at its directory alone.
func TestZip64(t *testing.T) {
	const large = 5 << 30
	tensor := func(key string, elements int64) string {
		return "X\x01\x00\x00\x00" + key + "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage" +
			"ctorch\nFloatStorage\nX\x01\x00\x00\x00" + key + "X\x03\x00\x00\x00cpu" + long(elements) + "tQ" +
			"K\x00" + long(elements) + "\x85K\x01\x85tR"
	}
	pickle := "\x80\x02}(" + tensor("a", large/4) + tensor("b", 1) + "u."
	f := &sparse{pieces: map[int64][]byte{}}
	z := zip.NewWriter(f)
	for _, m := range []struct {
		name string
		size int
		data string
	}{{"x/data.pkl", len(pickle), pickle}, {"x/data/a", large, ""}, {"x/data/b", 4, "behi"}} {
		w, err := z.CreateRaw(&zip.FileHeader{Name: m.name, CompressedSize64: uint64(m.size),
			UncompressedSize64: uint64(m.size)})
		if err == nil {
			_, err = io.WriteString(w, m.data)
		}
		zeros := make([]byte, sparsePiece)
		for n := len(m.data); n < m.size && err == nil; n += len(zeros) {
			_, err = w.Write(zeros)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	var file *File
	allocated := allocatedBy(func() {
		var err error
		if file, err = newPyTorch(f, f.size); err != nil {
			t.Fatal(err)
		}
	})
	if b, err := file.Read("b"); err != nil || string(b) != "behi" || allocated > 1<<20 {
		t.Errorf("%q, %v, %d bytes allocated", b, err, allocated)
	}
	if a, ok := file.Lookup("a"); !ok || a.Size != large {
		t.Errorf("a is %+v", a)
	}
}

// What a file says of its directory makes archive/zip allocate no more than a small directory does.
func TestZipDirectoryIsBounded(t *testing.T) {
	le := binary.LittleEndian
	end := func(entries uint16, length, begin uint32) []byte {
		b := append([]byte("PK\x05\x06\x00\x00\x00\x00"), make([]byte, 14)...)
		le.PutUint16(b[8:], entries)
		le.PutUint16(b[10:], entries)
		le.PutUint32(b[12:], length)
		le.PutUint32(b[16:], begin)
		return b
	}
	end64 := func(entries, length, begin, at uint64) []byte {
		b := append([]byte("PK\x06\x06"), make([]byte, 52)...)
		le.PutUint64(b[24:], entries)
		le.PutUint64(b[32:], entries)
		le.PutUint64(b[40:], length)
		le.PutUint64(b[48:], begin)
		b = append(b, "PK\x06\x07\x00\x00\x00\x00"...)
		b = le.AppendUint64(b, at)
		return append(append(b, 1, 0, 0, 0), end(0xffff, 0xffffffff, 0xffffffff)...)
	}
	const huge = 1 << 40
	lie := &sparse{size: huge, pieces: map[int64][]byte{}}
	lie.Write(end64(huge/46, 1<<20, huge-1<<20, huge))
	entry := append([]byte("PK\x01\x02"), make([]byte, 42)...)
	many := func(n int) *sparse {
		f := &sparse{pieces: map[int64][]byte{}}
		dir := bytes.Repeat(entry, n)
		f.pieces[0], f.size = dir, int64(len(dir))
		f.Write(end(uint16(n), uint32(len(dir)), 0))
		return f
	}
	for what, c := range map[string]struct {
		f    *sparse
		want string
	}{
		"a lie of many members": {lie, "at most 131072 allowed"},
		"many members":          {many(1<<17 + 1), "at most 131072 allowed"},
		"a long directory":      {many(1 << 20), "its directory is longer than 16777216 bytes"},
	} {
		allocated := allocatedBy(func() {
			if _, err := readZip(c.f, c.f.size); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v, want %q", what, err, c.want)
			}
		})
		if allocated > 100e6 {
			t.Errorf("%s: %d bytes allocated", what, allocated)
		}
		t.Logf("%s: %d bytes", what, allocated)
	}
}
