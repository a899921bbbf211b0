package catalog

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ditrun/ditrun/data/archive"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/names"
)

// byInnerArchives lists the archives within the archives: each is a class.
func (a *archives) byInnerArchives(ctx context.Context, o *Options) ([]entry, []string, error) {
	type inner struct {
		archive.File
		file  int32
		class string
	}
	var all []inner
	for file, l := range a.listings {
		for _, f := range l.Archives {
			all = append(all, inner{f, int32(file), filename.Stem(f.Name)})
		}
	}
	slices.SortFunc(all, func(a, b inner) int { return strings.Compare(a.class, b.class) })
	classes := make([]string, len(all))
	listings := make([]*archive.Listing, len(all))
	var done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(indexWorkers)
	for i, in := range all {
		if i > 0 && classes[i-1] == in.class {
			return nil, nil, fmt.Errorf("two archives of class %s", in.class)
		}
		classes[i] = in.class
		g.Go(func() (err error) {
			if listings[i], err = listInner(ctx, &a.files[in.file], in.File); err == nil {
				o.progress("index class archives", done.Add(1), int64(len(all)))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	total := 0
	for _, l := range listings {
		total += len(l.Pictures)
		a.left.Add(l.LeftOut)
	}
	entries := make([]entry, 0, total)
	for label, l := range listings {
		for i := range l.Pictures {
			e := entryOf(&l.Pictures[i], all[label].file)
			e.label = int32(label)
			entries = append(entries, e)
		}
		listings[label] = nil // there may be a million entries
	}
	return entries, classes, nil
}

// listInner lists the archive of a class, which is a file within another.
func listInner(ctx context.Context, c *container, f archive.File) (*archive.Listing, error) {
	r, _, err := c.reader()
	if err != nil {
		return nil, err
	}
	l, err := archive.List(ctx, r, f.Offset, f.Size)
	switch {
	case err != nil:
	case len(l.Archives) > 0:
		err = errors.New("archives nested three deep: want pictures")
	case len(l.Pictures) == 0:
		err = errors.New("no pictures")
	default:
		l.CountOthers()
		return l, nil
	}
	return nil, fmt.Errorf("%s in %s: %w", f.Name, c.path, err)
}

// byMembers takes pictures that carry their labels: all of them numbers, or all of them names, which are sorted.
func (a *archives) byMembers() ([]entry, []string, error) {
	var entries []entry
	var named []string // classes by entry, where labels are names
	top := int32(0)
	var first *archive.Picture
	for file, l := range a.listings {
		for i := range l.Pictures {
			p := &l.Pictures[i]
			if !p.Labelled {
				key := archive.SampleKey(p.Name)
				return nil, nil, fmt.Errorf(
					"%s has no label: want a member %s.cls or %s.json with a field label beside it", p.Name, key, key)
			}
			if first == nil {
				first = p
			}
			if (p.Label.Class == "") != (first.Label.Class == "") {
				return nil, nil, fmt.Errorf(
					"%s has label %s, %s has label %s: want numbers in all samples or names in all",
					first.Name, first.Label, p.Name, p.Label)
			}
			if p.Label.Class != "" {
				named = append(named, p.Label.Class)
			}
			e := entryOf(p, int32(file))
			e.name = path.Base(e.name)
			top = max(top, e.label)
			entries = append(entries, e)
		}
	}
	if named == nil {
		return entries, classNames(int(top)+1, entries), nil
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(named)))
	for i, name := range named {
		number, _ := slices.BinarySearch(sorted, name)
		entries[i].label = int32(number)
	}
	return entries, sorted, nil
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

// byArchives takes each archive for a class. Shards are classes as far as the order of their pictures goes, until
// [Open] drops them.
func (a *archives) byArchives() (entries []entry, sorted, notes []string, err error) {
	var doubtful bool
	a.shards, doubtful = judgeNames(a.files)
	var classes []string
	for i := range a.files {
		classes = append(classes, filename.Stem(a.files[i].path))
	}
	sorted = slices.Sorted(slices.Values(classes))
	if len(slices.Compact(slices.Clone(sorted))) < len(classes) {
		return nil, nil, nil, errors.New("two archives have the same name, and each is a class")
	}
	for i, l := range a.listings {
		if len(l.Pictures) == 0 && !a.shards {
			return nil, nil, nil, fmt.Errorf("%s, an archive of a class, holds no pictures", a.files[i].path)
		}
	}
	entries = a.entries()
	for i := range entries {
		label, _ := slices.BinarySearch(sorted, classes[entries[i].file])
		entries[i].label = int32(label)
	}
	switch {
	case a.shards:
		notes = []string{fmt.Sprintf("no labels in the %d shards: the pictures are used without classes, for an "+
			"unconditional model; --labels gives them classes", len(a.files))}
	case doubtful:
		notes = []string{fmt.Sprintf("each archive is a class, though some differ by a number alone (%s): "+
			"--unconditional takes the pictures without classes", names.Few(sorted))}
	}
	return entries, sorted, notes, nil
}

// judgeNames says whether files without labels are shards, into which a program cut a data set, and not one a class:
// their names differ by numbers alone, as those of train-00000-of-00010.parquet and 00000.tar do. Numbers without zeros
// before them may be classes, and synsets are. It is doubtful where only some names differ so.
func judgeNames(files []container) (shards, doubtful bool) {
	masks := map[string]bool{}
	plain := 0
	for i := range files {
		stem := strings.TrimSuffix(filename.Stem(files[i].path), ".tar")
		if classes.IsSynset(stem) {
			return false, false
		}
		if plainNumber.MatchString(stem) {
			plain++
		}
		masks[number.ReplaceAllString(partOf.ReplaceAllString(stem, "0-of-0"), "0")] = true
	}
	shards = len(masks) == 1 && plain < len(files)
	return shards, !shards && len(masks) < len(files)
}

var (
	number      = regexp.MustCompile(`\d+`)
	plainNumber = regexp.MustCompile(`^(0|[1-9]\d*)$`)
	partOf      = regexp.MustCompile(`\d+-of-\d+.*`) // some programs end it with a hash
)

// byFolders takes the folders of an archive for classes, below those that all pictures have in common. Where there are
// no folders, there are no classes; with noClasses a picture in no class folder is of a class without a name.
func (a *archives) byFolders(noClasses bool) (entries []entry, sorted, notes []string, err error) {
	entries = a.entries()
	if a.flat {
		for i := range entries {
			entries[i].label = 0
		}
		if !noClasses {
			notes = []string{noFolders}
		}
		return entries, classes.Unnamed(), notes, nil
	}
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
	var in []string // the class of each
	for i := range entries {
		class, name, ok := strings.Cut(strings.TrimPrefix(entries[i].name, common), "/")
		if !ok && !noClasses {
			return nil, nil, nil, fmt.Errorf("%s is in no class: want .cls or .json members beside the pictures, "+
				"folders of classes, or a file of labels (--labels); --unconditional takes all pictures, "+
				"without classes", entries[i].name)
		} else if !ok {
			class, name = "", class
		}
		in = append(in, class)
		entries[i].name = name
	}
	sorted = slices.Compact(slices.Sorted(slices.Values(in)))
	for i := range entries {
		label, _ := slices.BinarySearch(sorted, in[i])
		entries[i].label = int32(label)
	}
	if without := a.foldersWithout(common, sorted); len(without) > 0 {
		notes = []string{fmt.Sprintf("folders without pictures are not classes: %s", names.Few(without))}
	}
	return entries, sorted, notes, nil
}

// foldersWithout returns the folders beside those of the classes, below common, that hold no pictures.
func (a *archives) foldersWithout(common string, classes []string) []string {
	var without []string
	for _, l := range a.listings {
		for folder := range l.Folders {
			below, ok := strings.CutPrefix(folder+"/", common)
			class, _, _ := strings.Cut(below, "/")
			_, known := slices.BinarySearch(classes, class)
			if ok && class != "" && !known && !filename.IsSystem(class) {
				without = append(without, class)
			}
		}
	}
	slices.Sort(without)
	return slices.Compact(without)
}

// checkArchiveParts is checkParts for the folders of an archive.
func checkArchiveParts(location string, entries []entry, classes []string) (notes []string, err error) {
	type subfolder struct {
		label  int32
		folder string
	}
	known := map[subfolder]bool{}
	in := make(map[string]*classFolder, len(classes))
	for _, c := range classes {
		in[c] = &classFolder{}
	}
	for _, e := range entries {
		f := in[classes[e.label]]
		f.pictures++
		folder, _, deeper := strings.Cut(e.name, "/")
		if at := (subfolder{e.label, folder}); !deeper {
			f.direct++
		} else if !known[at] {
			known[at] = true
			f.folders = append(f.folders, folder)
		}
	}
	return checkParts(&store.Set{Location: location, Root: "an archive of ./"}, classes, in)
}

// applyLabelsInArchive is applyLabels for members of archives, whose folders do not count as part of their names: the
// lines of file may name them with folders all the same.
func applyLabelsInArchive(file *labels.File, entries []entry) (classes, notes []string, err error) {
	cutFolders := func() {
		for i := range entries {
			entries[i].name = path.Base(entries[i].name)
		}
	}
	if file.HasNames() {
		classes, notes, err = applyLabels(file, entries)
		cutFolders()
		return classes, notes, err
	}
	cutFolders()
	if classes, notes, err = applyLabels(file, entries); err != nil {
		return nil, nil, err
	}
	for i := range len(entries) - 1 {
		if entries[i].name == entries[i+1].name {
			return nil, nil, fmt.Errorf("two pictures are called %s: want lines of file name and class",
				entries[i].name)
		}
	}
	return classes, notes, nil
}
