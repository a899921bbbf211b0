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
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/ditrun/ditrun/data/archive"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
)

// openPacked opens archives of any kind, the compressed ones by unpacking them.
func openPacked(ctx context.Context, set *store.Set, labelFile *labels.File, o *Options) (*catalogue, error) {
	set, note := chooseSplit(set)
	files, sizes, err := archiveContainers(set)
	if err != nil {
		return nil, err
	}
	kinds, err := kindsOf(ctx, set)
	if err != nil {
		return nil, err
	}
	direct := files
	if set.Remote {
		// Headers lie far apart only in archives of large files: asking for each alone would be slower than reading on.
		files = containers(set.Cached(remoteBlock, remoteCache), true)
	}
	if err := unpackAll(ctx, set, kinds, files, sizes, o); err != nil {
		return nil, err
	}
	c, err := openIndexed(ctx, set, kinds, files, sizes, labelFile, o)
	if err != nil {
		return nil, err
	}
	c.remote = set.Remote && slices.ContainsFunc(kinds, func(k string) bool { return k == "tar" })
	if c.remote && !c.inOrder(remoteBlock, remoteCache) {
		for i := range direct {
			if kinds[i] == "tar" {
				files[i] = container{path: direct[i].path, keep: true, open: direct[i].open}
			}
		}
	}
	if note != "" {
		c.notes = append(c.notes, note)
	}
	return c, nil
}

// unpackAll puts unpacked archives in the place of the files that cannot be read as they are.
func unpackAll(ctx context.Context, set *store.Set, kinds []string, files []container, sizes []int64,
	o *Options) error {
	for i, kind := range kinds {
		original := set.Path(set.Objects[i].Name)
		var unpack unpackTo
		switch kind {
		case "tar":
			continue
		case "gzip":
			unpack = archive.Gunzip
		case "zstd":
			unpack = archive.Unzstd
		case "parquet":
			unpack = unpackTable
		case "":
			empty, err := isEmptyObject(set, i)
			if err != nil {
				return err
			}
			if empty {
				continue
			}
		}
		if unpack == nil {
			return fmt.Errorf("open %s: not a tar archive or parquet file", original)
		}
		o.progress("unpack into the cache", int64(i), int64(len(set.Objects)))
		path, size, err := unpacked(ctx, set, i, kind, unpack, o)
		if err != nil {
			return err
		}
		files[i], sizes[i] = localContainer(path, original), size
	}
	return nil
}

// openIndexed takes the catalogue of archives from the cache, or makes it and keeps it there.
func openIndexed(ctx context.Context, set *store.Set, kinds []string, files []container, sizes []int64,
	labelFile *labels.File, o *Options) (*catalogue, error) {
	dir, unkept := o.cacheFolder("index")
	key := indexKey(set, labelFile, o.NoClasses)
	if c := loadIndex(dir, key, files, sizes); c != nil {
		return c, nil
	}
	c, err := openArchives(ctx, set.Location, files, sizes, labelFile, o)
	if err != nil {
		return nil, err
	}
	if err := c.nameClasses(ctx, set, kinds); err != nil {
		return nil, err
	}
	if unkept == nil {
		unkept = c.saveIndex(dir, key)
	}
	if unkept != nil {
		c.notes = append(c.notes,
			fmt.Sprintf("the index of the archives is not kept for the next time: %v; set XDG_CACHE_HOME to a "+
				"folder for it",
				unkept))
	}
	return c, nil
}

// Archives in remote storage are read in blocks of this size, of which so much is kept.
const (
	remoteBlock = 4 << 20
	remoteCache = 512 << 20
)

// kindsOf tells what the files of a set are.
func kindsOf(ctx context.Context, set *store.Set) ([]string, error) {
	kinds := make([]string, len(set.Objects))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(indexWorkers)
	for i := range kinds {
		g.Go(func() (err error) {
			if ctx.Err() == nil {
				kinds[i], err = kindOf(set, i)
			}
			return err
		})
	}
	return kinds, g.Wait()
}

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
		if errors.As(err, new(*disk.NoCacheError)) { // which names the variable
			return fmt.Errorf("unpack %s: no folder to unpack into: %w", set.Path(obj.Name), err)
		}
		return fmt.Errorf("unpack %s: no folder to unpack into: %w: set XDG_CACHE_HOME to one that "+
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
			err = fmt.Errorf("%w: %s has no room to unpack it: set XDG_CACHE_HOME to a folder on a larger disk", err,
				dir)
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

func isRemote(location string) bool { return strings.Contains(location, "://") }
