package gallery

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
)

// A fileStore keeps the joined pictures one behind the other in the file that they will be in, and a batch behind a gap
// in a file of its own, with its checksum at the end.
type fileStore struct {
	ctx context.Context
	dir string // of the partial
	set Set
	form
}

// A form is what a file of pictures is made of.
type form struct {
	head []byte // what it begins with
	// sum is the CRC-32 of the array in an .npz before its pixels, nil for other forms.
	sum *uint32
	// encode returns the bytes of pictures, of which the first has this number.
	encode func(first int, p sampling.Pictures) ([]byte, error)
	size   int64 // bytes of a picture, 0 where they differ
	// end writes what follows the pictures.
	end func(f *retryFile, s *partialState) error
	// output makes the output of the file and returns its path; nil where the file is the output.
	output func(f *os.File) (path string, err error)
}

func newStore(ctx context.Context, k kind, dir string, set Set) store {
	pixels := func(_ int, p sampling.Pictures) ([]byte, error) { return p.Pix, nil }
	f := &fileStore{ctx: ctx, dir: dir, set: set}
	switch k {
	case npzKind:
		f.form = npzForm(set)
	case tarKind:
		f.form = tarForm(set)
	case sheetKind:
		f.form = form{size: set.Bytes() / int64(set.Count),
			output: f.drawSheet}
	default:
		return &folderStore{ctx, filepath.Join(dir, partialItems), set}
	}
	if f.encode == nil {
		f.encode = pixels
	}
	return f
}

// open opens the file of joined pictures.
func (f *fileStore) open() (*os.File, error) {
	return os.OpenFile(filepath.Join(f.dir, partialItems), os.O_RDWR|os.O_CREATE, 0o666)
}

func (f *fileStore) begin(s *partialState) error {
	file, err := f.open()
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, len(f.head))
	file.ReadAt(head, 0) // where it is shorter, the heads differ
	if s.Done == 0 || info.Size() < s.Bytes || !bytes.Equal(head, f.head) ||
		f.size > 0 && s.Bytes != int64(len(f.head))+f.size*int64(s.Done) {
		s.Done, s.Bytes, s.CRC32 = 0, 0, nil
	}
	if s.Done > 0 && f.sum != nil && s.CRC32 == nil { // an older version has begun it
		sum := *f.sum
		r := untilReader{f.ctx, io.NewSectionReader(file, int64(len(f.head)), s.Bytes-int64(len(f.head)))}
		if _, err := io.Copy(summing{&sum}, r); err != nil {
			return err
		}
		s.CRC32 = &sum
	}
	return file.Truncate(s.Bytes)
}

// part is the file of a batch that is not joined.
func (f *fileStore) part(b span) string {
	return filepath.Join(f.dir, fmt.Sprintf("batch-%06d", b.lo/f.set.BatchSize))
}

func (f *fileStore) has(b span) bool {
	_, err := os.Lstat(f.part(b))
	return err == nil
}

func (f *fileStore) put(b span, p sampling.Pictures) error {
	data, err := f.encode(b.lo, p)
	if err != nil {
		return err
	}
	return disk.Retry(f.ctx, disk.Pauses(), func() error {
		return disk.WriteFile(f.part(b), func(w io.Writer) error {
			if _, err := w.Write(data); err != nil {
				return err
			}
			return binary.Write(w, binary.LittleEndian, crc32.ChecksumIEEE(data))
		})
	})
}

// readPart removes a part that is damaged.
func (f *fileStore) readPart(b span) ([]byte, error) {
	data, err := os.ReadFile(f.part(b))
	if err != nil {
		return nil, err
	}
	const sum = crc32.Size
	n := len(data) - sum
	if n < 0 || crc32.ChecksumIEEE(data[:n]) != binary.LittleEndian.Uint32(data[n:]) ||
		f.size > 0 && int64(n) != f.size*int64(b.hi-b.lo) {
		return nil, errors.Join(errDamaged, os.Remove(f.part(b)))
	}
	return data[:n], nil
}

func (f *fileStore) join(s *partialState, b span, p *sampling.Pictures) (err error) {
	var data []byte
	if p != nil {
		data, err = f.encode(b.lo, *p)
	} else {
		data, err = f.readPart(b)
	}
	if err != nil {
		return err
	}
	file, err := f.open()
	if err != nil {
		return err
	}
	defer file.Close()
	out := &retryFile{File: file, ctx: f.ctx, at: s.Bytes}
	if s.Bytes == 0 {
		if _, err := out.Write(f.head); err != nil {
			return err
		}
		s.CRC32 = f.sum
	}
	if _, err := out.Write(data); err != nil {
		return err
	}
	s.Bytes = out.at
	if s.CRC32 != nil {
		sum := crc32.Update(*s.CRC32, crc32.IEEETable, data)
		s.CRC32 = &sum
	}
	return out.sync()
}

func (f *fileStore) joined(b span) { os.Remove(f.part(b)) } // one that stays goes with the folder

func (f *fileStore) finish(s *partialState) (string, error) {
	file, err := f.open()
	if err != nil {
		return "", err
	}
	defer file.Close()
	if f.output != nil {
		return f.output(file)
	}
	out := &retryFile{File: file, ctx: f.ctx, kept: s.Bytes}
	if err := f.end(out, s); err != nil {
		return "", err
	}
	return file.Name(), out.sync()
}

// drawSheet draws the sheet beside its pixels.
func (f *fileStore) drawSheet(pixels *os.File) (string, error) {
	p := sampling.Pictures{Pix: make([]byte, f.set.Bytes()), Height: f.set.Height, Width: f.set.Width}
	if _, err := pixels.ReadAt(p.Pix, 0); err != nil {
		return "", err
	}
	path := filepath.Join(f.dir, "sheet.png")
	return path, f.set.writeSheet(path, p.Images())
}

// A retryFile is written from its beginning, or from at on, each write tried again where its error may pass. The first
// bytes, which it has, are dropped.
type retryFile struct {
	*os.File
	ctx      context.Context
	at, kept int64
}

func (f *retryFile) Write(p []byte) (int, error) {
	n := len(p)
	skip := min(max(f.kept-f.at, 0), int64(n))
	f.at += skip
	if p = p[skip:]; len(p) > 0 {
		err := disk.Retry(f.ctx, disk.Pauses(), func() error {
			_, err := f.WriteAt(p, f.at)
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("write %s: %w", f.Name(), disk.Bare(err))
		}
		f.at += int64(len(p))
	}
	return n, nil
}

func (f *retryFile) sync() error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), disk.Bare(err))
	}
	return nil
}

// An untilReader fails with the cause of ctx once that has ended.
type untilReader struct {
	ctx context.Context
	io.Reader
}

func (r untilReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// summing adds what is written to a CRC-32.
type summing struct{ sum *uint32 }

func (w summing) Write(p []byte) (int, error) {
	*w.sum = crc32.Update(*w.sum, crc32.IEEETable, p)
	return len(p), nil
}
