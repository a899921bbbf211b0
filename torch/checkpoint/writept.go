package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf8"

	"github.com/ditrun/ditrun/internal/disk"
)

// WritePyTorch writes a state dict as torch.save does: a file that torch.load opens with
// weights_only=True and without copying (mmap=True). It appears whole or not at all. Equal tensors give
// equal bytes.
func WritePyTorch(path string, tensors []Tensor) error {
	return disk.WriteFile(path, func(w io.Writer) error { return encodePyTorch(w, tensors) })
}

// recordAlignment is that of torch.save: storages begin at its multiples, so that they can be mapped.
const recordAlignment = 64

// recordFolder is what torch.save calls the folder in a file without a name, so that the bytes do not
// depend on the path.
const recordFolder = "archive/"

func encodePyTorch(w io.Writer, tensors []Tensor) error {
	text, err := statePickle(tensors)
	if err != nil {
		return err
	}
	count := &disk.Counter{W: w}
	z := zip.NewWriter(count)
	bytesOf := func(b []byte) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(b); return err }
	}
	add := func(name string, size int64, write func(io.Writer) error) error {
		sum := crc32.NewIEEE()
		if err := write(sum); err != nil { // the sum stands before the data: a second pass writes them
			return err
		}
		if err := z.Flush(); err != nil {
			return err
		}
		name = recordFolder + name
		// As torch.save pads: an extra field of Z, long enough for its own header.
		const localHeader, fieldHeader = 30, 4
		at := count.N + localHeader + int64(len(name)) + fieldHeader
		pad := (recordAlignment - at%recordAlignment) % recordAlignment
		extra := binary.LittleEndian.AppendUint16([]byte("FB"), uint16(pad))
		extra = append(extra, bytes.Repeat([]byte{'Z'}, int(pad))...)
		out, err := z.CreateRaw(&zip.FileHeader{Name: name, Method: zip.Store, CRC32: sum.Sum32(),
			CompressedSize64: uint64(size), UncompressedSize64: uint64(size), Extra: extra})
		if err != nil {
			return err
		}
		return write(out)
	}
	for _, r := range []struct{ name, text string }{{"data.pkl", string(text)}, {".format_version", "1"},
		{".storage_alignment", fmt.Sprint(recordAlignment)}, {"byteorder", "little"}} {
		if err := add(r.name, int64(len(r.text)), bytesOf([]byte(r.text))); err != nil {
			return err
		}
	}
	for i, t := range tensors {
		if err := add(fmt.Sprintf("data/%d", i), t.size(), t.writeTo); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	if err := add("version", 2, bytesOf([]byte("3\n"))); err != nil {
		return err
	}
	if err := verifySources(tensors); err != nil {
		return err
	}
	return z.Close()
}

// statePickle is the pickle of an OrderedDict of tensors, each on a storage of its own.
func statePickle(tensors []Tensor) ([]byte, error) {
	classes := map[DType]string{}
	for class, dtype := range storageTypes {
		if dtype != "" {
			classes[dtype] = class
		}
	}
	p := pickler{}
	p.raw("\x80\x02ccollections\nOrderedDict\n)R(")
	seen := map[string]bool{}
	for i, t := range tensors {
		class, ok := classes[t.DType]
		want, err := byteSize(t.DType, t.Shape)
		switch {
		case !ok:
			return nil, fmt.Errorf("tensor %q: elements of type %s have no storage class in a .pt file", t.Name,
				t.DType)
		case err != nil:
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		case uint64(t.size()) != want:
			return nil, fmt.Errorf("tensor %q: %d bytes for shape %v %s, want %d", t.Name, t.size(), t.Shape, t.DType,
				want)
		case seen[t.Name] || !utf8.ValidString(t.Name):
			return nil, fmt.Errorf("tensor name %q is there twice or not valid UTF-8", t.Name)
		}
		seen[t.Name] = true
		p.text(t.Name)
		p.raw("ctorch._utils\n_rebuild_tensor_v2\n((")
		p.text("storage")
		p.raw("ctorch\n" + class + "\n")
		p.text(fmt.Sprint(i))
		p.text("cpu")
		n := Info{Shape: t.Shape}.NumElements()
		p.number(n)
		p.raw("tQK\x00(")
		strides := make([]int64, len(t.Shape))
		step := int64(1)
		for i := len(t.Shape) - 1; i >= 0; i-- {
			strides[i] = step
			step *= max(t.Shape[i], 1)
		}
		for _, d := range t.Shape {
			p.number(d)
		}
		p.raw("t(")
		for _, d := range strides {
			p.number(d)
		}
		p.raw("t\x89ccollections\nOrderedDict\n)RtR")
	}
	p.raw("u.")
	return p.Bytes(), nil
}

type pickler struct{ bytes.Buffer }

func (p *pickler) raw(s string) { p.WriteString(s) }

func (p *pickler) text(s string) {
	p.WriteByte('X')
	p.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(s))))
	p.WriteString(s)
}

func (p *pickler) number(v int64) {
	if v == int64(int32(v)) {
		p.WriteByte('J')
		p.Write(binary.LittleEndian.AppendUint32(nil, uint32(v)))
		return
	}
	p.raw("\x8a\x08")
	p.Write(binary.LittleEndian.AppendUint64(nil, uint64(v)))
}
