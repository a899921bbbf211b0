package catalog

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ditrun/ditrun/data/archive"
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

// localContainer reads an unpacked file.
func localContainer(path, original string) container {
	return container{path: original, keep: true, open: func() (store.File, error) { return os.Open(path) }}
}

// isEmptyObject says whether object i of a set holds what is written where there is nothing to pack.
func isEmptyObject(set *store.Set, i int) (bool, error) {
	f, err := set.File(i)
	if err != nil {
		return false, disk.OpenError(set.Path(set.Objects[i].Name), err)
	}
	defer f.Close()
	return archive.IsEmpty(f, 0, set.Objects[i].Size), nil
}
