package catalog

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// indexWorkers is how many archives are listed at once. Listing waits for the disk or the network, not the processor.
const indexWorkers = 16

// openArchives opens uncompressed tar archives in place: archives of class archives, as ILSVRC2012_img_train.tar; a
// folder of class archives; WebDataset shards; an archive of a class folder tree; a flat one, with labels beside it.
func openArchives(ctx context.Context, location string, files []container, sizes []int64, labels *labelFile,
	o *Options) (*catalogue, error) {
	listings := make([]*listing, len(files))
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(indexWorkers)
	for i := range files {
		g.Go(func() error {
			f, _, err := files[i].reader()
			if err != nil {
				return err
			}
			l, err := listTar(gctx, f, 0, sizes[i], int32(i))
			if err == nil {
				err = l.resolve(labels == nil)
			}
			if err != nil {
				return fmt.Errorf("open %s: %w", files[i].path, err)
			}
			listings[i] = l
			o.progress("index archives", done.Add(1), int64(len(files)))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var entries []entry
	var classes []string
	var err error
	nested, labelled, flat := 0, 0, true
	total := 0
	left, differ := filename.LeftOut{}, 0
	var notes, empty []string
	for i, l := range listings {
		left.Add(l.left)
		differ += l.differ
		if l.empty {
			empty = append(empty, path.Base(files[i].path))
		}
		nested += len(l.inner)
		total += len(l.pictures)
		for _, m := range l.pictures {
			flat = flat && !strings.Contains(m.name, "/")
			if m.labelled {
				labelled++
			}
		}
	}
	switch {
	case nested > 0 && total > 0:
		err = errors.New("pictures and class archives side by side in one archive: want one or the other")
	case nested > 0:
		entries, classes, err = nestedClasses(ctx, files, listings, left, o)
	case total == 0:
		err = errors.New("no pictures: " + wanted)
		if len(empty) > 0 {
			err = fmt.Errorf("%w; without members: %s", err, names.Few(empty))
		}
		if len(left) > 0 {
			err = fmt.Errorf("%w; %s", err, left)
		}
	case labels != nil:
		entries = allEntries(listings)
		classes, err = labels.applyArchive(entries)
		notes = append(notes, labels.notes...)
	case labelled > 0:
		entries, classes, err = labelledClasses(listings)
	case flat && len(files) > 1:
		entries, classes, err = classArchives(files, listings)
	default:
		var without []string
		entries, classes, without, err = treeClasses(listings)
		if len(without) > 0 {
			notes = append(notes, fmt.Sprintf("folders without pictures are no classes: %s", names.Few(without)))
		}
		if err == nil {
			parts, err := checkArchiveParts(location, entries, classes)
			if err != nil {
				return nil, err
			}
			notes = append(notes, parts...)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", location, err)
	}
	c := newCatalogue(files, entries, classes)
	if labels == nil && labelled == 0 {
		if err := c.twice(); err != nil {
			return nil, err
		}
	}
	if differ > 0 {
		notes = append(notes, fmt.Sprintf("%s whose .json says another label than .cls, which is taken",
			names.Plural(differ, "sample")))
	}
	if len(empty) > 0 {
		notes = append(notes, fmt.Sprintf("archives and tables without members are left out: %s", names.Few(empty)))
	}
	notes = append(notes, left.Notes()...)
	c.notes = notes
	return c, nil
}

// twice is the error of members of one name in one archive, which follow each other: tar would leave only the last.
func (c *catalogue) twice() error {
	for i := range len(c.entries) - 1 {
		if a, b := &c.entries[i], &c.entries[i+1]; a.name == b.name && a.label == b.label && a.file == b.file {
			return fmt.Errorf("open %s: %s of class %q is there twice: pack the archive again from its files",
				c.files[a.file].path, a.name, c.classes[a.label])
		}
	}
	return nil
}

func allEntries(listings []*listing) []entry {
	var entries []entry
	for _, l := range listings {
		for _, m := range l.pictures {
			entries = append(entries, m.entry)
		}
	}
	return entries
}

// nestedClasses lists the archives within the archives: each is a class.
func nestedClasses(
	ctx context.Context, files []container, listings []*listing, left filename.LeftOut, o *Options,
) ([]entry, []string, error) {
	type part struct {
		inner
		file  int32
		class string
	}
	var parts []part
	for file, l := range listings {
		for _, a := range l.inner {
			parts = append(parts, part{a, int32(file), strings.TrimSuffix(path.Base(a.name), path.Ext(a.name))})
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(a.class, b.class) })
	classes := make([]string, len(parts))
	found := make([]*listing, len(parts))
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(indexWorkers)
	for i, p := range parts {
		if i > 0 && classes[i-1] == p.class {
			return nil, nil, fmt.Errorf("two archives of class %s", p.class)
		}
		classes[i] = p.class
		g.Go(func() error {
			f, _, err := files[p.file].reader()
			if err != nil {
				return err
			}
			l, err := listTar(gctx, f, p.offset, p.size, p.file)
			switch {
			case err != nil:
			case len(l.inner) > 0:
				err = errors.New("archives in an archive in an archive: want pictures")
			case len(l.pictures) == 0:
				err = errors.New("no pictures")
			}
			if err != nil {
				return fmt.Errorf("%s in %s: %w", p.name, files[p.file].path, err)
			}
			found[i] = l
			o.progress("index class archives", done.Add(1), int64(len(parts)))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	total := 0
	for _, l := range found {
		total += len(l.pictures)
		left.Add(l.left)
		for _, other := range l.others {
			left.Count(filename.WhyLeftOut(other.name))
		}
	}
	entries := make([]entry, 0, total)
	for label, l := range found {
		for _, m := range l.pictures {
			m.label = int32(label)
			entries = append(entries, m.entry)
		}
		found[label] = nil
	}
	return entries, classes, nil
}

// labelledClasses takes pictures that carry their labels: all of them numbers, or all of them names, which are sorted.
func labelledClasses(listings []*listing) ([]entry, []string, error) {
	var entries []entry
	var names []string // by entry, where labels are names
	top := int32(0)
	var first *member
	for _, l := range listings {
		for i := range l.pictures {
			m := &l.pictures[i]
			if !m.labelled {
				key := sampleKey(m.name)
				return nil, nil, fmt.Errorf(
					"%s has no label: want a member %s.cls or %s.json with a field label beside it", m.name, key, key)
			}
			if first == nil {
				first = m
			}
			if (m.class == "") != (first.class == "") {
				return nil, nil, fmt.Errorf(
					"%s has label %s, %s has label %s: want numbers in all samples or names in all",
					first.name, label{first.label, first.class}, m.name, label{m.label, m.class})
			}
			if m.class != "" {
				names = append(names, m.class)
			}
			e := m.entry
			e.name = path.Base(e.name)
			top = max(top, e.label)
			entries = append(entries, e)
		}
	}
	if names == nil {
		return entries, classNames(int(top)+1, entries), nil
	}
	classes := slices.Compact(slices.Sorted(slices.Values(names)))
	for i, name := range names {
		number, _ := slices.BinarySearch(classes, name)
		entries[i].label = int32(number)
	}
	return entries, classes, nil
}

// classNames names n labels where only the files say what they are: by the WordNet id that all names of a label begin
// with, as ImageNet's do, else by numbers.
func classNames(n int, entries []entry) []string {
	names := make([]string, n)
	for _, e := range entries {
		base := e.name[strings.LastIndexByte(e.name, '/')+1:]
		synset, _, ok := strings.Cut(base, "_")
		if !ok || !classes.IsSynset(synset) || names[e.label] != "" && names[e.label] != synset {
			return classes.Numbered(n)
		}
		names[e.label] = synset
	}
	for label, name := range names {
		if name == "" { // no picture of it: ImageNet's name if the others are ImageNet's
			if n != len(classes.ImageNet()) {
				return classes.Numbered(n)
			}
			names[label] = classes.ImageNet()[label].Synset
		}
	}
	return names
}

// classArchives takes each archive for a class.
func classArchives(files []container, listings []*listing) ([]entry, []string, error) {
	var classes []string
	for i := range files {
		classes = append(classes, filename.Stem(files[i].path))
	}
	sorted := slices.Sorted(slices.Values(classes))
	if len(slices.Compact(slices.Clone(sorted))) < len(classes) {
		return nil, nil, errors.New("two archives of one name, each a class")
	}
	for i, l := range listings {
		if len(l.pictures) == 0 {
			return nil, nil, fmt.Errorf("%s, an archive of a class, holds no pictures", files[i].path)
		}
	}
	entries := allEntries(listings)
	for i := range entries {
		label, _ := slices.BinarySearch(sorted, classes[entries[i].file])
		entries[i].label = int32(label)
	}
	return entries, sorted, nil
}

// treeClasses takes the folders of an archive for classes, below those that all pictures have in common. Folders beside
// them that hold no pictures are returned too.
func treeClasses(listings []*listing) (entries []entry, sorted, without []string, err error) {
	entries = allEntries(listings)
	common := entries[0].name[:strings.LastIndexByte(entries[0].name, '/')+1]
	for _, e := range entries {
		for common != "" && !strings.HasPrefix(e.name, common) {
			common = common[:strings.LastIndexByte(strings.TrimSuffix(common, "/"), '/')+1]
		}
	}
	direct := func(e entry) bool { return !strings.Contains(e.name[len(common):], "/") }
	if common != "" && slices.ContainsFunc(entries, direct) { // a single class, whose folder they have in common
		common = common[:strings.LastIndexByte(strings.TrimSuffix(common, "/"), '/')+1]
	}
	var classes []string
	for i := range entries {
		class, name, ok := strings.Cut(strings.TrimPrefix(entries[i].name, common), "/")
		if !ok {
			return nil, nil, nil, fmt.Errorf("%s is in no class: want .cls or .json members beside the pictures, "+
				"folders of classes, or a file of labels (--labels)", entries[i].name)
		}
		classes = append(classes, class)
		entries[i].name = name
	}
	sorted = slices.Compact(slices.Sorted(slices.Values(classes)))
	for i := range entries {
		label, _ := slices.BinarySearch(sorted, classes[i])
		entries[i].label = int32(label)
	}
	for _, l := range listings {
		for folder := range l.folders {
			below, ok := strings.CutPrefix(folder+"/", common)
			class, _, _ := strings.Cut(below, "/")
			if _, known := slices.BinarySearch(sorted, class); ok && class != "" && !known && !filename.IsSystem(class) {
				without = append(without, class)
			}
		}
	}
	slices.Sort(without)
	return entries, sorted, slices.Compact(without), nil
}

// checkArchiveParts is checkParts for the folders of an archive.
func checkArchiveParts(location string, entries []entry, classes []string) (notes []string, err error) {
	type place struct {
		label  int32
		folder string
	}
	known := map[place]bool{}
	in := make(map[string]*classFolder, len(classes))
	for _, c := range classes {
		in[c] = &classFolder{}
	}
	for _, e := range entries {
		f := in[classes[e.label]]
		f.pictures++
		folder, _, deeper := strings.Cut(e.name, "/")
		if at := (place{e.label, folder}); !deeper {
			f.direct++
		} else if !known[at] {
			known[at] = true
			f.folders = append(f.folders, folder)
		}
	}
	return checkParts(&store.Set{Location: location, Root: "an archive of ./"}, classes, in)
}

// isTar says whether a file begins as a tar archive does.
func isTar(head []byte) bool {
	return len(head) >= 512 && (string(head[257:262]) == "ustar" || oldTar(head))
}

// oldTar knows headers from before ustar by their checksum.
func oldTar(head []byte) bool {
	if head[0] == 0 {
		return false
	}
	sum := int64(0)
	for i, b := range head[:512] {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int64(b)
	}
	want := int64(0)
	for _, c := range strings.Trim(string(head[148:156]), " \x00") {
		if c < '0' || c > '7' {
			return false
		}
		want = want*8 + int64(c-'0')
	}
	return want == sum
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
