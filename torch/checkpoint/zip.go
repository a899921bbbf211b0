package checkpoint

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// A record is a member of a zip archive, stored as it is.
type record struct {
	name         string
	header       int64 // offset of its local header
	offset, size int64 // of its data
}

// maxZipDirectory bounds what is read of an archive's directory. A member has at least 46 bytes of it, and some
// hundred in memory.
const maxZipDirectory = 16 << 20

// readZip returns the members of the archive behind r by name. It is stricter than archive/zip, which reads the
// directory: members are stored, neither compressed nor encrypted, do not overlap, and have different names, the same
// in the directory and before their data. Local headers may leave sizes out, so those of the directory count.
func readZip(r io.ReaderAt, size int64) (map[string]record, error) {
	in := &zipInput{r: r, left: maxZipDirectory}
	z, err := zip.NewReader(in, size)
	if errors.Is(err, zip.ErrFormat) {
		return nil, errors.New("zip archive without an end and a directory before it: the file is cut off or damaged")
	}
	if err == nil {
		err = checkEnd(r, size, z)
	}
	if err != nil {
		return nil, fmt.Errorf("zip archive: %w", err)
	}
	in.left = math.MaxInt64
	limit := size - endSize - int64(len(z.Comment)) // where the directory begins, or zip64's 76 bytes after that
	for _, f := range z.File {
		limit -= int64(46 + len(f.Name) + len(f.Extra) + len(f.Comment))
	}
	list := make([]record, 0, len(z.File))
	out := make(map[string]record, len(z.File))
	for _, f := range z.File {
		rec, err := in.record(f, limit)
		if err != nil {
			return nil, fmt.Errorf("record %.100q: %w", f.Name, err)
		}
		if _, twice := out[rec.name]; twice {
			return nil, fmt.Errorf("two records are called %.100q", rec.name)
		}
		out[rec.name] = rec
		list = append(list, rec)
	}
	slices.SortFunc(list, func(a, b record) int { return cmp.Compare(a.header, b.header) })
	for i := 1; i < len(list); i++ {
		if a, b := list[i-1], list[i]; a.offset+a.size > b.header {
			return nil, fmt.Errorf("records %.100q and %.100q overlap", a.name, b.name)
		}
	}
	return out, nil
}

// endSize is that of the end record, but for the comment in it.
const endSize = 22

// checkEnd holds the archive to end where its file does, and to be one file.
func checkEnd(r io.ReaderAt, size int64, z *zip.Reader) error {
	var end [endSize]byte
	if err := readFull(r, end[:], size-int64(len(end)+len(z.Comment))); err != nil {
		return err
	}
	switch disk := binary.LittleEndian.Uint16(end[4:]); {
	case !bytes.HasPrefix(end[:], []byte("PK\x05\x06")):
		return errors.New("the file goes on after its end")
	case disk != 0 && disk != math.MaxUint16:
		return errors.New("it is one of several files")
	case len(z.File) > maxEntries:
		return fmt.Errorf("%d members, at most %d allowed", len(z.File), maxEntries)
	}
	return nil
}

// A zipInput is the file that archive/zip reads. It bounds what the file can make archive/zip allocate, and notes
// where it was read last, since archive/zip does not say where a local header is.
type zipInput struct {
	r    io.ReaderAt
	left int64 // bytes that may be read
	last int64 // offset
}

func (in *zipInput) ReadAt(p []byte, off int64) (int, error) {
	if in.left -= int64(len(p)); in.left < 0 {
		return 0, fmt.Errorf("its directory is longer than %d bytes", maxZipDirectory)
	}
	in.last = off
	n, err := in.r.ReadAt(p, off)
	// The end of a zip64 directory has the number of members, by which archive/zip allocates before it looks for them.
	if n >= 40 && bytes.HasPrefix(p, []byte("PK\x06\x06")) && binary.LittleEndian.Uint64(p[32:]) > maxEntries {
		return 0, fmt.Errorf("%d members, at most %d allowed", binary.LittleEndian.Uint64(p[32:]), maxEntries)
	}
	return n, err
}

// record returns where a member is. Its data ends before limit.
func (in *zipInput) record(f *zip.File, limit int64) (record, error) {
	switch {
	case !utf8.ValidString(f.Name) || strings.ContainsAny(f.Name, "\\\x00") ||
		strings.Contains("/"+f.Name+"/", "/../") || strings.HasPrefix(f.Name, "/"):
		return record{}, errors.New("the record name is no plain path")
	case f.Flags&1 != 0:
		return record{}, errors.New("it is encrypted")
	case f.Method != zip.Store:
		return record{}, errors.New("it is compressed: save the file again with torch.save, which stores")
	case f.CompressedSize64 != f.UncompressedSize64:
		return record{}, fmt.Errorf("%d bytes for %d", f.CompressedSize64, f.UncompressedSize64)
	}
	offset, err := f.DataOffset() // which reads the local header
	if err != nil {
		return record{}, fmt.Errorf("no local header: %w", err)
	}
	if offset > limit || f.UncompressedSize64 > uint64(limit-offset) {
		return record{}, fmt.Errorf("%d bytes at %d run into the directory", f.UncompressedSize64, offset)
	}
	rec := record{f.Name, in.last, offset, int64(f.UncompressedSize64)}
	head := make([]byte, 30+len(rec.name))
	if err := readFull(in.r, head, rec.header); err != nil {
		return record{}, err
	}
	if int(binary.LittleEndian.Uint16(head[26:])) != len(rec.name) || string(head[30:]) != rec.name {
		return record{}, errors.New("its local header has another name")
	}
	return rec, nil
}
