package catalog

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ditrun/ditrun/data/archive"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// indexWorkers is how many archives are listed at once. Listing waits for the disk or the network, not the processor.
const indexWorkers = 16

// openArchives opens uncompressed tar archives in place: archives of class archives, as ILSVRC2012_img_train.tar; a
// folder of class archives; WebDataset shards; an archive of a class folder tree; a flat one, with labels beside it.
func openArchives(ctx context.Context, location string, files []container, sizes []int64, labelFile *labels.File,
	o *Options) (*catalogue, error) {
	a := &archives{location: location, files: files, labels: labelFile, left: filename.LeftOut{}}
	if err := a.list(ctx, sizes, o); err != nil {
		return nil, err
	}
	entries, classes, err := a.classes(ctx, o)
	if err != nil {
		return nil, err
	}
	c := newCatalogue(files, entries, classes)
	if a.labels == nil && a.labelled == 0 {
		if err := c.twice(); err != nil {
			return nil, err
		}
	}
	c.unlabelled, c.notes = a.shards, a.notes
	if a.conflicts > 0 {
		c.notes = append(c.notes, fmt.Sprintf("%s with different labels in .json and .cls: the one in .cls is used",
			names.Plural(a.conflicts, "sample")))
	}
	if len(a.empty) > 0 {
		c.notes = append(c.notes, fmt.Sprintf("empty archives and tables are left out: %s",
			names.Few(a.empty)))
	}
	c.notes = append(c.notes, a.left.Notes()...)
	return c, nil
}

// archives are tar archives that make one data set, and what they hold.
type archives struct {
	location string
	files    []container
	labels   *labels.File // nil if there is none
	listings []*archive.Listing

	pictures, labelled int
	flat               bool // no picture lies in a folder
	shards             bool // of a data set without labels
	nested             int  // archives within archives
	conflicts          int  // samples of two labels
	empty              []string
	left               filename.LeftOut
	notes              []string
}

// list reads the headers of the archives and counts what they hold.
func (a *archives) list(ctx context.Context, sizes []int64, o *Options) error {
	a.listings = make([]*archive.Listing, len(a.files))
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(indexWorkers)
	for i := range a.files {
		g.Go(func() error {
			f, _, err := a.files[i].reader()
			if err != nil {
				return err
			}
			l, err := archive.List(ctx, f, 0, sizes[i])
			if err == nil {
				err = l.MatchMembers(a.labels == nil)
			}
			if err != nil {
				return fmt.Errorf("open %s: %w", a.files[i].path, err)
			}
			a.listings[i] = l
			o.progress("index archives", done.Add(1), int64(len(a.files)))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	a.flat = true
	for i, l := range a.listings {
		if l.Empty {
			a.empty = append(a.empty, path.Base(a.files[i].path))
		}
		for _, p := range l.Pictures {
			a.flat = a.flat && !strings.Contains(p.Name, "/")
			if p.Labelled {
				a.labelled++
			}
		}
		a.pictures += len(l.Pictures)
		a.nested += len(l.Archives)
		a.conflicts += l.Conflicts
		a.left.Add(l.LeftOut)
	}
	return nil
}

// classes finds what labels the pictures, and returns them with the names of the classes.
func (a *archives) classes(ctx context.Context, o *Options) (entries []entry, classes []string, err error) {
	var notes []string
	switch {
	case a.nested > 0 && a.pictures > 0:
		err = errors.New("pictures and class archives side by side in one archive: want one or the other")
	case a.nested > 0:
		entries, classes, err = a.byInnerArchives(ctx, o)
	case a.pictures == 0:
		err = a.noPictures()
	case a.labels != nil:
		entries = a.entries()
		classes, notes, err = applyLabelsInArchive(a.labels, entries)
	case a.labelled > 0 && !(o.NoClasses && a.labelled < a.pictures):
		entries, classes, err = a.byMembers()
	case a.flat && len(a.files) > 1:
		if entries, classes, notes, err = a.byArchives(); o.NoClasses {
			notes = nil
		}
	default:
		if entries, classes, notes, err = a.byFolders(o.NoClasses); err != nil || o.NoClasses {
			break
		}
		parts, err := checkArchiveParts(a.location, entries, classes)
		if err != nil {
			return nil, nil, err
		}
		notes = append(notes, parts...)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", a.location, err)
	}
	a.notes = append(a.notes, notes...)
	return entries, classes, nil
}

func (a *archives) noPictures() error {
	err := errors.New("no pictures: " + wanted)
	if len(a.empty) > 0 {
		err = fmt.Errorf("%w; empty: %s", err, names.Few(a.empty))
	}
	if len(a.left) > 0 {
		err = fmt.Errorf("%w; %s", err, a.left)
	}
	return err
}

// twice is the error of members of one name in one archive, which follow each other: tar would leave only the last.
// Rows of a table may well have one name.
func (c *catalogue) twice() error {
	for i := range len(c.entries) - 1 {
		if a, b := &c.entries[i], &c.entries[i+1]; a.name == b.name && a.label == b.label && a.file == b.file &&
			path.Ext(c.files[a.file].path) != ".parquet" {
			of := ""
			if class := c.classes[a.label]; class != "" {
				of = fmt.Sprintf(" of class %q", class)
			}
			return fmt.Errorf("open %s: %s%s is there twice: pack the archive again from its files",
				c.files[a.file].path, a.name, of)
		}
	}
	return nil
}

// entryOf is a picture of archive file.
func entryOf(p *archive.Picture, file int32) entry {
	return entry{name: p.Name, label: p.Label.Number, file: file, offset: p.Offset, length: p.Size}
}

// entries are all pictures.
func (a *archives) entries() []entry {
	var entries []entry
	for file, l := range a.listings {
		for i := range l.Pictures {
			entries = append(entries, entryOf(&l.Pictures[i], int32(file)))
		}
	}
	return entries
}

// archiveContainers keeps the archives of a set open.
func archiveContainers(set *store.Set) ([]container, []int64, error) {
	sizes := make([]int64, len(set.Objects))
	for i, o := range set.Objects {
		if o.Err != nil {
			return nil, nil, disk.OpenError(set.Path(o.Name), o.Err)
		}
		sizes[i] = o.Size
	}
	return containers(set, true), sizes, nil
}
