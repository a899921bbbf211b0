package catalog

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
)

// catalogue is a source of picture files, each a file of its own or a stretch of an archive.
type catalogue struct {
	files   []container
	entries []entry
	classes []string
	order   string
	hash    string
	notes   []string
	remote  bool // each picture is a request to another machine
	budget  *budget

	unlabelled bool // the classes are shards

	orientation picture.Orientation
}

// entry is one picture: length bytes from offset in a container.
type entry struct {
	name           string // slash-separated path within the class
	label          int32
	file           int32
	offset, length int64
}

// container is a file that holds pictures.
type container struct {
	path string // for messages
	open func() (store.File, error)
	keep bool  // open once and for all, as of archives; else for each read
	bad  error // why it cannot be read, such as a dead link

	once sync.Once
	file store.File
	err  error
}

// containers lists the objects of a set.
func containers(set *store.Set, keep bool) []container {
	files := make([]container, len(set.Objects))
	for i, o := range set.Objects {
		files[i].path, files[i].keep, files[i].bad = set.Path(o.Name), keep, o.Err
		files[i].open = func() (store.File, error) { return set.File(i) }
	}
	return files
}

// reader returns the open file and what closes it after use.
func (c *container) reader() (store.File, func(), error) {
	if !c.keep {
		f, err := c.open()
		if err != nil {
			return nil, nil, disk.OpenError(c.path, err)
		}
		return f, func() { f.Close() }, nil
	}
	c.once.Do(func() {
		if c.file, c.err = c.open(); c.err != nil {
			c.err = disk.OpenError(c.path, c.err)
		}
	})
	return c.file, func() {}, c.err
}

// catalogueOrder says what the ids of a catalogue are sorted by.
const catalogueOrder = "label, folder, file name"

// newCatalogue sorts entries and takes their hash.
func newCatalogue(files []container, entries []entry, classes []string) *catalogue {
	slices.SortStableFunc(entries, func(a, b entry) int {
		if c := cmp.Compare(a.label, b.label); c != 0 {
			return c
		}
		return comparePaths(a.name, b.name)
	})
	c := &catalogue{files: files, entries: entries, classes: classes, order: catalogueOrder}
	c.hash = hashCatalogue(len(entries), func(i int) (Sample, int64) { return c.Sample(i), entries[i].length }, nil)
	return c
}

// comparePaths orders as torchvision's ImageFolder does: by folder, then by file name, so that "a/z" comes before
// "a-b/c".
func comparePaths(a, b string) int {
	i, j := strings.LastIndexByte(a, '/'), strings.LastIndexByte(b, '/')
	if i < 0 && j < 0 {
		return cmp.Compare(a, b)
	}
	return cmp.Or(cmp.Compare(a[:max(i, 0)], b[:max(j, 0)]), cmp.Compare(a[i+1:], b[j+1:]))
}

func (c *catalogue) Len() int          { return len(c.entries) }
func (c *catalogue) Classes() []string { return c.classes }
func (c *catalogue) Order() string     { return c.order }
func (c *catalogue) Hash() string      { return c.hash }
func (c *catalogue) Notes() []string   { return c.notes }

func (c *catalogue) Sample(i int) Sample {
	return Sample{c.entries[i].name, int(c.entries[i].label)}
}

func (c *catalogue) Close() error {
	var errs []error
	for i := range c.files {
		if f := c.files[i].file; f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// dropClasses makes one class without a name of all. The ids stay, and so does the hash.
func (c *catalogue) dropClasses() {
	for i := range c.entries {
		e := &c.entries[i]
		if class := c.classes[e.label]; class != "" {
			e.name = class + "/" + e.name
		}
		e.label = 0
	}
	c.classes = classes.Unnamed()
}

// where names sample i in messages.
func (c *catalogue) where(i int) string {
	e, file := &c.entries[i], &c.files[c.entries[i].file]
	if !file.keep {
		return file.path
	}
	if classes.None(c.classes) {
		return fmt.Sprintf("%s in %s", e.name, file.path)
	}
	return fmt.Sprintf("%s of class %q in %s", e.name, c.classes[e.label], file.path)
}

// Bytes reads the file of sample i into buf, which it may replace by a larger one.
func (c *catalogue) Bytes(i int, buf []byte) ([]byte, error) {
	e := &c.entries[i]
	if err := c.files[e.file].bad; err != nil {
		return nil, &BadPicture{c.where(i), err}
	}
	if e.length > maxFile {
		return nil, &BadPicture{c.where(i), fmt.Errorf("%d bytes: want at most %d", e.length, maxFile)}
	}
	f, done, err := c.files[e.file].reader()
	if err != nil {
		return nil, err
	}
	defer done()
	buf = slices.Grow(buf[:0], int(e.length))[:e.length]
	n, err := f.ReadAt(buf, e.offset)
	if n < len(buf) {
		if err == nil || errors.Is(err, io.EOF) {
			err = fmt.Errorf("ends after %d of %d bytes: it was cut short since it was listed", n, e.length)
		}
		return nil, fmt.Errorf("load %s: %w", c.where(i), err)
	}
	if reason, ok := bytes.CutPrefix(buf, []byte(badRow)); ok {
		return nil, &BadPicture{c.where(i), errors.New(string(reason))}
	}
	return buf, nil
}

// inOrder says whether reading all pictures by their ids, with maxBytes of blocks cached, reads at most twice their
// bytes. If not, the pictures of an archive were shuffled, and each is better read alone.
func (c *catalogue) inOrder(block, maxBytes int64) bool {
	type key struct {
		file  int32
		block int64
	}
	kept := map[key]int64{} // when it was last used
	clock, read, want := int64(0), int64(0), int64(0)
	for _, e := range c.entries {
		want += e.length
		for b := e.offset / block; b <= (e.offset+max(e.length-1, 0))/block; b++ {
			k := key{e.file, b}
			clock++
			if _, ok := kept[k]; !ok {
				read += block
				if int64(len(kept)) >= maxBytes/block {
					oldest, at := k, clock
					for k, t := range kept {
						if t < at {
							oldest, at = k, t
						}
					}
					delete(kept, oldest)
				}
			}
			kept[k] = clock
		}
	}
	return read <= 2*want+int64(len(c.files))*block
}

// BadPicture is the error of a picture that cannot be decoded, or that is not a file, such as a dead link. A failure to
// read is another kind of error: it says nothing about the picture.
type BadPicture struct {
	Path string // of the file, or the picture's place in an archive
	Err  error
}

func (e *BadPicture) Error() string { return fmt.Sprintf("load %s: %v", e.Path, e.Err) }
func (e *BadPicture) Unwrap() error { return e.Err }

// Remote is that of [RawSource].
func (c *catalogue) Remote() bool { return c.remote }

// OrientationOf returns the Orientation that src was opened with.
func OrientationOf(src Source) picture.Orientation {
	switch s := src.(type) {
	case *catalogue:
		return s.orientation
	case *remainder:
		return OrientationOf(s.Source)
	}
	return picture.AsStored
}

func (c *catalogue) Image(i int) (*picture.Image, error) {
	b, err := c.Bytes(i, nil)
	if err != nil {
		return nil, err
	}
	img := new(picture.Image)
	done, err := c.Decode(context.Background(), img, i, b)
	if err != nil {
		return nil, err
	}
	done()
	return img, nil
}

// Decode is that of [RawSource].
func (c *catalogue) Decode(ctx context.Context, img *picture.Image, i int, b []byte) (done func(), err error) {
	h, err := picture.ReadHeader(b, c.orientation)
	if err != nil {
		return nil, &BadPicture{c.where(i), err}
	}
	if done, err = c.budget.take(ctx, h.Memory()); err != nil {
		return nil, err
	}
	if err := h.Decode(img, b); err != nil {
		done()
		return nil, &BadPicture{c.where(i), err}
	}
	return done, nil
}

// maxFile bounds what one picture file may cost in memory.
const maxFile = 1 << 30

// hashCatalogue is Source.Hash for n samples; content, if any, is added at the end. Names count without their
// extension, which programs that repack data sets change.
func hashCatalogue(n int, sample func(i int) (s Sample, length int64), content []byte) string {
	h := sha256.New()
	var line []byte
	for i := range n {
		s, length := sample(i)
		line = append(line[:0], strings.TrimSuffix(s.Name, path.Ext(s.Name))...)
		line = append(line, 0)
		line = strconv.AppendInt(line, int64(s.Label), 10)
		line = append(line, 0)
		line = strconv.AppendInt(line, length, 10)
		line = append(line, '\n')
		h.Write(line)
	}
	h.Write(content)
	return hex.EncodeToString(h.Sum(nil))
}

// defaultDecodeMemory is what decoders may take together where nobody says more.
const defaultDecodeMemory = 1 << 30

// collectAbove is what must be given back at once for a collection of garbage, of some milliseconds, to be nothing
// beside the decoding.
const collectAbove = 256 << 20

// budget shares memory among decoders: most pictures are small beside it, and a few large ones at once may be too much
// for a computer. libjpeg could decode to a smaller size, but the pixels would be others than Pillow's.
type budget struct {
	free *semaphore.Weighted
	all  int64
}

func newBudget(bytes int64) *budget {
	return &budget{semaphore.NewWeighted(bytes), bytes}
}

// take waits for n bytes, for all where n is more, and returns what gives them back. A nil budget has no end.
func (b *budget) take(ctx context.Context, n int64) (giveBack func(), err error) {
	if b == nil {
		return func() {}, nil
	}
	n = min(n, b.all)
	if err := b.free.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() {
		if n > collectAbove {
			runtime.GC() // what is given back should be free: the next picture may ask for as much
		}
		b.free.Release(n)
	}, nil
}
