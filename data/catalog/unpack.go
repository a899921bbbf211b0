package catalog

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
)

// What cannot be read at random places, compressed archives and parquet, is unpacked once into an uncompressed tar
// archive in the cache, which is then read in place like any other.

// cacheKey identifies an object by place, size and version, so that another content has another key.
func cacheKey(kind string, set *store.Set, o *store.Object) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d\n%s", kind, absolute(set.Path(o.Name)), o.Size, o.Version))
	return hex.EncodeToString(sum[:16])
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil && !isRemote(path) {
		return abs
	}
	return path
}

// unpackTo is how an object becomes a tar archive.
type unpackTo func(ctx context.Context, f io.ReaderAt, size int64, out io.Writer) error

// unpacked returns the tar archive that an object was, or now is, unpacked to.
func unpacked(ctx context.Context, set *store.Set, i int, kind string, unpack unpackTo, o *Options) (path string,
	size int64, err error) {
	obj := &set.Objects[i]
	if obj.Err != nil {
		return "", 0, obj.Err
	}
	noFolder := func(err error) error {
		return fmt.Errorf("unpack %s: a folder is needed for what is unpacked: %w: set XDG_CACHE_HOME to one that "+
			"can be written, on a disk with room", set.Path(obj.Name), err)
	}
	dir, err := o.cacheFolder("unpacked")
	if err != nil {
		return "", 0, noFolder(err)
	}
	former := ""
	if kind == "parquet" { // what earlier versions made of tables had no names for labels
		former, kind = filepath.Join(dir, cacheKey(kind, set, obj)+".tar"), "parquet 2"
	}
	path = filepath.Join(dir, cacheKey(kind, set, obj)+".tar")
	if info, err := os.Stat(path); err == nil { // a cache that others fill may be one that we cannot write
		return path, info.Size(), nil
	}
	lock, err := disk.WaitLock(ctx, path+".lock") // another process may be at it; without locks both do the same
	if err != nil {
		if ctx.Err() == nil {
			err = noFolder(err)
		}
		return "", 0, err
	}
	defer lock.Remove()
	if info, err := os.Stat(path); err == nil {
		return path, info.Size(), nil
	}
	disk.Sweep(path)
	if former != "" {
		os.Remove(former)
	}
	f, err := set.File(i)
	if err != nil {
		return "", 0, disk.OpenError(set.Path(obj.Name), err)
	}
	defer f.Close()
	var bad error
	err = disk.WriteFile(path, func(out io.Writer) error {
		b := bufio.NewWriterSize(out, 1<<20)
		if bad = unpack(ctx, f, obj.Size, b); bad != nil {
			return bad
		}
		return b.Flush()
	})
	if bad != nil { // the message is to name the file that the user knows
		err = bad
	}
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w: %s has no room for what is unpacked: set XDG_CACHE_HOME to a larger disk", err, dir)
		}
		return "", 0, fmt.Errorf("unpack %s: %w", set.Path(obj.Name), err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", 0, err
	}
	return path, info.Size(), nil
}

// maxUnpacked bounds what a compressed archive may grow to: pictures are compressed already.
func maxUnpacked(size int64) int64 { return 200*size + 1<<26 }

func decompressed(open func(io.Reader) (io.Reader, func(), error)) unpackTo {
	return func(ctx context.Context, f io.ReaderAt, size int64, out io.Writer) error {
		in := bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 1<<22)
		r, done, err := open(in)
		if err != nil {
			return err
		}
		defer done()
		for total := int64(0); ; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := io.CopyN(out, r, 1<<24)
			if total += n; total > maxUnpacked(size) {
				return fmt.Errorf("%d bytes unpack to more than %d", size, maxUnpacked(size))
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("truncated: the compressed data of %d bytes end early", size)
			}
			if err != nil {
				return err
			}
		}
	}
}

var (
	unpackGzip = decompressed(func(r io.Reader) (io.Reader, func(), error) {
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	})
	unpackZstd = decompressed(func(r io.Reader) (io.Reader, func(), error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	})
)

// writeMember adds a labelled picture to an archive of our own.
func writeMember(t *tar.Writer, name string, l label, picture []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(picture)), Mode: 0o644, Format: tar.FormatPAX,
		PAXRecords: map[string]string{labelRecord: l.String()}}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := t.Write(picture)
	return err
}

// localContainer reads an unpacked file.
func localContainer(path, original string) container {
	return container{path: original, keep: true, open: func() (store.File, error) { return os.Open(path) }}
}
