package numpy

import (
	"archive/zip"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A Reader reads the data of an array, which need not fit in memory, from first to last: little-endian elements in C
// order. An archive compares its checksum with the last of them.
type Reader struct {
	checkpoint.Info
	data  io.Reader
	left  int64
	close func() error
}

// Read reads the next bytes.
func (r *Reader) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.data.Read(b[:min(int64(len(b)), r.left)])
	if r.left -= int64(n); r.left > 0 {
		if err == io.EOF {
			err = fmt.Errorf("npy: %d bytes are missing at the end", r.left)
		}
		return n, err
	}
	// An archive says at its end whether the checksum was right.
	if _, err := r.data.Read(make([]byte, 1)); err != io.EOF && err != nil {
		return n, err
	}
	return n, nil
}

// Close ends the use.
func (r *Reader) Close() error { return r.close() }

// newReader reads the header of an array that is size bytes long with its data.
func newReader(in io.Reader, size int64, name string, closed func() error) (*Reader, error) {
	buffered := bufio.NewReaderSize(in, maxHeader+12)
	head, err := buffered.Peek(maxHeader + 12)
	if err != nil && err != io.EOF {
		return nil, err
	}
	info, at, err := parseHeader(head)
	if err == nil {
		err = checkSize(info, size-int64(at))
	}
	if err != nil {
		return nil, err
	}
	if _, err := buffered.Discard(at); err != nil {
		return nil, err
	}
	info.Name = name
	return &Reader{info, buffered, info.Size, closed}, nil
}

// OpenNPY opens the array in a .npy file. The caller closes it.
func OpenNPY(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, disk.OpenError(path, err)
	}
	st, err := f.Stat()
	if err == nil {
		var r *Reader
		if r, err = newReader(f, st.Size(), "", f.Close); err == nil {
			return r, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", path, err)
}

// An NPZ is an open .npz file.
type NPZ struct {
	path string
	z    *zip.ReadCloser
}

// OpenNPZ opens an archive of arrays, of which it reads the list. The caller closes it.
func OpenNPZ(path string) (*NPZ, error) {
	z, err := zip.OpenReader(path)
	if errors.Is(err, zip.ErrFormat) {
		return nil, fmt.Errorf("%s: not a .npz file, which is a zip archive, or cut short", path)
	} else if err != nil {
		return nil, disk.OpenError(path, err)
	}
	return &NPZ{path, z}, nil
}

// Path is the path the file was opened with.
func (n *NPZ) Path() string { return n.path }

// Close closes the file.
func (n *NPZ) Close() error { return n.z.Close() }

// Names lists the arrays in the order of the file.
func (n *NPZ) Names() (list []string) {
	for _, f := range n.z.File {
		if name, ok := strings.CutSuffix(f.Name, ".npy"); ok {
			list = append(list, name)
		}
	}
	return list
}

// maxCompression is the most that deflate makes of a byte.
const maxCompression = 1032

// Open opens the array called name. The caller closes it. An array whose header says more than its member holds, or
// whose member says more than can be in it, is an error before anything is read.
func (n *NPZ) Open(name string) (*Reader, error) {
	for _, f := range n.z.File {
		if f.Name != name+".npy" {
			continue
		}
		r, err := openMember(f, name)
		if err != nil {
			return nil, fmt.Errorf("%s: array %s: %w", n.path, name, err)
		}
		return r, nil
	}
	return nil, fmt.Errorf("%s: no array %s", n.path, name)
}

func openMember(f *zip.File, name string) (*Reader, error) {
	if f.UncompressedSize64>>40 > 0 || f.CompressedSize64>>40 > 0 ||
		f.UncompressedSize64 > maxCompression*(f.CompressedSize64+64) {
		return nil, fmt.Errorf("%d bytes in %d: no compression does that", f.UncompressedSize64, f.CompressedSize64)
	}
	in, err := f.Open()
	if err != nil {
		return nil, err
	}
	r, err := newReader(in, int64(f.UncompressedSize64), name, in.Close)
	if err != nil {
		in.Close()
		return nil, err
	}
	return r, nil
}
