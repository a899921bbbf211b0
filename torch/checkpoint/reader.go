// Package checkpoint reads and writes the files that hold tensors: names, element types, shapes and bytes. It knows
// nothing of tensors in memory, so a program that only looks into a file needs no libtorch.
//
// It reads safetensors (eight bytes of header length, a JSON header, the data of all tensors without
// gaps), the files of torch.save of all ages, and indexes of models in several files; it writes
// safetensors and what torch.load opens. A file is untrusted: [Open] checks every size against the file
// before it allocates, refuses what the reference implementations refuse and some of what they let pass
// (duplicate names, unknown fields, absurd counts), and runs nothing that a pickle asks for. A tensor inside
// nested objects is named by the keys that lead to it, joined by dots: ema.pos_embed.
//
//	f, err := checkpoint.Open("model.safetensors")
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	for _, t := range f.Tensors() {
//		fmt.Println(t.Name, t.DType, t.Shape)
//	}
//	data, err := f.Read("pos_embed")                   // bytes
//	values, err := checkpoint.Floats(f, "pos_embed")   // []float32
//
// [Write] makes such a file whole or not at all. Package namemap shows the tensors of a file under other names, package
// numpy reads and writes arrays of NumPy. The [example] writes a file and reads it.
//
// [example]: https://pkg.go.dev/github.com/ditrun/ditrun/torch/checkpoint#example-package
package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"os"
	"slices"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/saves"
)

// Info describes one tensor of a file.
type Info struct {
	Name  string
	DType DType
	Shape []int64 // empty for a scalar; not to be modified

	Offset int64 // of the first byte, from the start of the file; -1 where the bytes are not in one piece
	Size   int64 // in bytes
}

// NumElements is the product of the shape, 1 for a scalar.
func (t Info) NumElements() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// CheckRange returns an error unless the tensor has n bytes from byte off on.
func (t Info) CheckRange(n int, off int64) error {
	if off < 0 || off > t.Size || int64(n) > t.Size-off {
		return fmt.Errorf("tensor %q: %d bytes at %d, outside its %d bytes", t.Name, n, off, t.Size)
	}
	return nil
}

// File is an open file of tensors. Its methods may be called from several
// goroutines at once, Close excepted.
type File struct {
	path    string
	format  string
	closer  io.Closer
	tensors []Info
	read    []func(p []byte, off int64) error // as tensors
	index   map[string]int
	meta    map[string]string
	values  []Value

	signed *comparison // with the checksum that stands beside the file; nil where there is none
	parts  []*File     // of an index
}

// Open opens a file of tensors in any of the formats that the package knows, which it tells by the content. It checks
// all of the file but the tensors' numbers, which stay on disk until they are read. Where the file has a checksum, in
// state.json of a training run or in SHA256SUMS beside it, the file is summed in the background, and [File.Verify] says
// whether the sum is right. The caller closes the file.
func Open(path string) (*File, error) {
	return open(path, true, func(r io.ReaderAt, size int64) (*File, error) { return sniff(r, size, path) })
}

// OpenSafetensors is [Open] for a file that can only be safetensors.
func OpenSafetensors(path string) (*File, error) { return open(path, true, newSafetensors) }

// OpenUnverified is [OpenSafetensors] that does not compare the checksum: for all but one of several processes that
// open the same file.
func OpenUnverified(path string) (*File, error) { return open(path, false, newSafetensors) }

func open(path string, verify bool, read func(r io.ReaderAt, size int64) (*File, error)) (*File, error) {
	// Opening a pipe or a device would block or mislead the size checks.
	st, err := os.Stat(path)
	if err != nil {
		return nil, loadError(path, err)
	}
	if !st.Mode().IsRegular() {
		return nil, loadError(path, errors.New("not a regular file"))
	}
	fd, err := os.Open(path)
	if err != nil {
		return nil, loadError(path, err)
	}
	if st, err = fd.Stat(); err != nil {
		fd.Close()
		return nil, loadError(path, err)
	}
	var signed *comparison
	if verify {
		s, err := saves.SignatureOf(path)
		if err != nil {
			fd.Close()
			return nil, loadError(path, err)
		}
		if s != nil {
			signed = compareWith(s, fd, st.Size())
		}
	}
	f, err := read(fd, st.Size())
	if signed != nil && err != nil {
		if damage := signed.verify(); damage != nil { // the cause of what was found
			err = fmt.Errorf("%w: %w", err, damage)
		}
	} else if signed != nil {
		err = signed.signature.CheckSize(signed.size)
	}
	if err != nil {
		if signed != nil {
			signed.end()
		}
		fd.Close()
		return nil, loadError(path, err)
	}
	f.path, f.signed = path, signed
	if f.closer != nil { // an index: it is read, its shards stay open
		if signed != nil {
			<-signed.done
		}
		fd.Close()
	} else {
		f.closer = fd
	}
	return f, nil
}

// NewFile reads the header of a safetensors file of size bytes behind r, which
// must stay usable as long as the File is. Errors call it name.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	f, err := newSafetensors(r, size)
	if err != nil {
		return nil, loadError(name, err)
	}
	f.path = name
	return f, nil
}

func newSafetensors(r io.ReaderAt, size int64) (*File, error) {
	f := &File{format: formatSafetensors}
	if err := f.readHeader(r, size); err != nil {
		return nil, err
	}
	return f, nil
}

// add appends a tensor that read reads.
func (f *File) add(info Info, read func(p []byte, off int64) error) {
	f.index[info.Name] = len(f.tensors)
	f.tensors = append(f.tensors, info)
	f.read = append(f.read, read)
}

func (f *File) readHeader(r io.ReaderAt, size int64) error {
	if size < 8 {
		return fmt.Errorf("file of %d bytes is too short for safetensors", size)
	}
	var prefix [8]byte
	if err := readFull(r, prefix[:], 0); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeader {
		return fmt.Errorf("header of %d bytes, at most %d allowed: not a safetensors file?", n, maxHeader)
	}
	if int64(n) > size-8 {
		return fmt.Errorf("header of %d bytes in a file of %d", n, size)
	}
	text := make([]byte, n)
	if err := readFull(r, text, 8); err != nil {
		return err
	}
	entries, meta, err := parseHeader(text)
	if err != nil {
		return err
	}
	dataStart := 8 + int64(n)
	dataSize := uint64(size - dataStart)

	// Stable, so that empty tensors at one place keep the header's order.
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end))
	})
	f.meta = meta
	f.tensors = make([]Info, 0, len(entries))
	f.index = make(map[string]int, len(entries))
	prev := uint64(0)
	for _, e := range entries {
		if err := e.check(prev, dataSize); err != nil {
			return fmt.Errorf("tensor %q: %w", e.name, err)
		}
		prev = e.end
		at := dataStart + int64(e.begin)
		f.add(Info{Name: e.name, DType: e.dtype, Shape: e.shape, Offset: at, Size: int64(e.end - e.begin)},
			func(p []byte, off int64) error { return readFull(r, p, at+off) })
	}
	if prev != dataSize {
		return fmt.Errorf("%d bytes of data, the tensors hold %d", dataSize, prev)
	}
	return nil
}

// check verifies one entry, given the end of the one before it and the size of
// the whole data part.
func (e entry) check(prev, dataSize uint64) error {
	switch {
	case e.end < e.begin:
		return fmt.Errorf("data ends at %d, before its start %d", e.end, e.begin)
	case e.begin < prev:
		return fmt.Errorf("data starts at %d, inside the tensor before it, which ends at %d", e.begin, prev)
	case e.begin > prev:
		return fmt.Errorf("data starts at %d, leaving a gap after %d", e.begin, prev)
	case e.end > dataSize:
		return fmt.Errorf("data ends at %d, the file holds %d bytes of data", e.end, dataSize)
	}
	want, err := byteSize(e.dtype, e.shape)
	if err != nil {
		return err
	}
	if have := e.end - e.begin; have != want {
		return fmt.Errorf("%d bytes for shape %v %s, want %d", have, e.shape, e.dtype, want)
	}
	return nil
}

// byteSize is the number of bytes of a tensor. Overflow is checked dimension by
// dimension, so a zero does not excuse absurd dimensions before it.
func byteSize(dtype DType, shape []int64) (uint64, error) {
	n := uint64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("negative dimension in shape %v", shape)
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 {
			return 0, fmt.Errorf("shape %v overflows", shape)
		}
		n = lo
	}
	hi, lo := bits.Mul64(n, uint64(dtype.Bits()))
	if hi != 0 {
		return 0, fmt.Errorf("shape %v %s overflows", shape, dtype)
	}
	if lo%8 != 0 {
		return 0, fmt.Errorf("shape %v %s is %d bits, not whole bytes", shape, dtype, lo)
	}
	return lo / 8, nil
}

// Path is the path the file was opened with.
func (f *File) Path() string { return f.path }

// Tensors returns the tensors in the order of their data in the file.
func (f *File) Tensors() []Info { return slices.Clone(f.tensors) }

// Lookup returns the tensor called name.
func (f *File) Lookup(name string) (Info, bool) {
	i, ok := f.index[name]
	if !ok {
		return Info{}, false
	}
	return f.tensors[i], true
}

// Format names the format of the file, such as "safetensors" or "PyTorch".
func (f *File) Format() string { return f.format }

// Values lists what a PyTorch file holds beside tensors, such as the arguments of the training script;
// nil for other formats.
func (f *File) Values() []Value { return slices.Clone(f.values) }

// Metadata returns a copy of the file's metadata, nil if it has none.
func (f *File) Metadata() map[string]string { return maps.Clone(f.meta) }

// Read returns the bytes of the tensor called name: little-endian elements in
// C order.
func (f *File) Read(name string) ([]byte, error) {
	t, ok := f.Lookup(name)
	if !ok {
		return nil, loadError(f.path, fmt.Errorf("no tensor %q", name))
	}
	p := make([]byte, t.Size)
	if err := f.ReadAt(p, name, 0); err != nil {
		return nil, err
	}
	return p, nil
}

// ReadAt fills p with the bytes of the tensor called name that start off bytes
// into it. Unlike io.ReaderAt it returns nothing less: a range outside the
// tensor is an error.
func (f *File) ReadAt(p []byte, name string, off int64) error {
	i, ok := f.index[name]
	if !ok {
		return loadError(f.path, fmt.Errorf("no tensor %q", name))
	}
	if err := f.tensors[i].CheckRange(len(p), off); err != nil {
		return loadError(f.path, err)
	}
	if err := f.read[i](p, off); err != nil {
		return loadError(f.path, fmt.Errorf("tensor %q: %w", name, err))
	}
	return nil
}

// Verify waits until all of the file has been compared with the checksum that stands beside it, and returns an error
// that names both if they differ; nil for a file without one. What was made of the file's tensors counts after that
// alone.
func (f *File) Verify() error {
	if f.signed != nil {
		if err := f.signed.verify(); err != nil {
			return loadError(f.path, err)
		}
	}
	for _, part := range f.parts {
		if err := part.Verify(); err != nil {
			return err
		}
	}
	return nil
}

// Signed names the file beside this one that [File.Verify] compares with, "" where there is none.
func (f *File) Signed() string {
	if f.signed == nil {
		return ""
	}
	return f.signed.signature.By
}

// SHA256 returns the hex SHA-256 of the file, of a model in several files that of the file that lists them.
func (f *File) SHA256() (string, error) {
	if f.signed == nil {
		return disk.SHA256(f.path)
	}
	<-f.signed.done
	return f.signed.sum, f.signed.err
}

// Close closes the file.
func (f *File) Close() error {
	if f.signed != nil {
		f.signed.end()
	}
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// readFull fills p from r at off. A short read means that the file shrank
// after its size was taken.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("file ends at byte %d, it was longer when opened", off+int64(n))
	}
	return err
}

// loadError says which file failed. An error that carries a path already
// loses it, so that the path is not printed twice.
func loadError(path string, err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) && pe.Path == path {
		err = pe.Err
	}
	return fmt.Errorf("load %s: %w", path, err)
}

// WithoutPath drops the path that an error of this package begins with, for callers that name the file.
func WithoutPath(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}

// sniff reads a file whatever its format is. An index needs the path, for its folder; without one it is
// refused.
func sniff(r io.ReaderAt, size int64, path string) (*File, error) {
	head := make([]byte, min(size, 512))
	if err := readFull(r, head, 0); err != nil {
		return nil, err
	}
	// The length of a safetensors header can look like the beginning of any other format, so it is
	// looked at first.
	isHeader := len(head) > 8 && head[8] == '{' && binary.LittleEndian.Uint64(head) <= uint64(size-8)
	isJSON := bytes.HasPrefix(head, []byte("{")) || bytes.HasPrefix(head, []byte("\ufeff{")) // with a byte order mark
	switch {
	case isHeader:
		return newSafetensors(r, size)
	case bytes.HasPrefix(head, []byte("PK")):
		return newPyTorch(r, size)
	case len(head) > 1 && head[0] == 0x80 && head[1] <= 5:
		return newLegacy(r, size)
	case len(head) > 262 && string(head[257:262]) == "ustar":
		return nil, errors.New("a tar file, the format of torch before 0.1.10: load it in Python and save it again")
	case isJSON && path == "":
		return nil, errors.New("an index, where a file of weights was expected")
	case isJSON:
		return newIndex(r, size, path)
	case len(head) > 8 && head[8] != '{':
		return nil, errors.New("neither safetensors nor a file of torch.save nor the index of a sharded model")
	}
	return newSafetensors(r, size)
}
