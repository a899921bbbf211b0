package catalog

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/names"
)

// openFolder opens a tree of class folders: every folder in root is a class, numbered in byte order of the names;
// pictures are the files below it, at any depth, with one of [filename.PictureExtensions] in any case; links are
// followed. Within a class the samples are sorted by folder path, then by file name. So far these are the rules of
// torchvision's ImageFolder.
//
// Unlike there, hidden and system folders and files are left out; folders that hold parts of a data set (train,
// test), or output of ditrun, are an error; so are two folders whose names differ only in how their letters are
// composed. A class folder without pictures is an error, as in torchvision.
func openFolder(set *store.Set) (*catalogue, error) {
	pictures, out := pictures(set)
	classes := slices.DeleteFunc(slices.Sorted(slices.Values(set.Folders)), filename.IsSystem)
	number := make(map[string]int32, len(classes))
	for i, c := range classes {
		number[c] = int32(i)
	}
	in := classFolders(pictures, classes)
	notes, err := checkFolders(set, classes, in)
	if err != nil {
		return nil, err
	}
	entries := make([]entry, 0, len(pictures.Objects))
	loose := ""
	for i, o := range pictures.Objects {
		class, name, ok := strings.Cut(o.Name, "/")
		if !ok {
			loose = o.Name
			out.Count("in no class folder")
			continue
		}
		entries = append(entries, entry{name: name, label: number[class], file: int32(i), length: o.Size})
	}
	if len(entries) == 0 {
		return nil, noClasses(set, loose, out)
	}
	c := newCatalogue(containers(pictures, false), entries, classes)
	c.remote = set.Remote
	c.notes = append(out.Notes(), notes...)
	return c, nil
}

// checkFolders refuses folders that are no classes, and remarks on what is odd about them.
func checkFolders(set *store.Set, classes []string, in map[string]*classFolder) (notes []string, err error) {
	if err := refuseOwn(set); err != nil {
		return nil, err
	}
	for _, o := range set.Objects { // a link that leads nowhere may have been a class
		if o.Err != nil && !strings.Contains(o.Name, "/") &&
			filename.WhyLeftOut(o.Name) == filename.WhyLeftOut("none") {
			return nil, fmt.Errorf("open %s: %w: mend it, or remove it", set.Path(o.Name), o.Err)
		}
	}
	if notes, err = checkParts(set, classes, in); err != nil {
		return nil, err
	}
	twins := []string{}
	for _, c := range classes {
		if first, ok := set.Twins[c]; ok {
			twins = append(twins, fmt.Sprintf("%q and %q", first, c))
		}
	}
	if len(twins) > 0 {
		notes = append(notes, fmt.Sprintf(
			"classes %s are the same folder, through a link: its pictures are in both classes", names.Few(twins)))
	}
	for _, c := range classes {
		if in[c].pictures == 0 {
			return nil, noPictures(set, c)
		}
	}
	return notes, nil
}

// convertible are kinds of pictures that are not read.
var convertible = []string{
	".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".svg", ".psd", ".pcx",
}

// noPictures is the error of a class folder without pictures.
func noPictures(set *store.Set, class string) error {
	out := filename.LeftOut{}
	for _, o := range set.Objects {
		if kind := filename.WhyLeftOut(o.Name); kind != "" && strings.HasPrefix(o.Name, class+"/") {
			out.Count(kind)
		}
	}
	text := fmt.Sprintf("open %s: class folder %q holds no pictures (%s)",
		set.Location, class, filename.PictureExtensions)
	if len(out) == 0 {
		return fmt.Errorf("%s: put pictures into it, or remove it", text)
	}
	advice := "put pictures into it, or move it elsewhere"
	for _, ext := range convertible {
		if out[ext] > 0 {
			advice = fmt.Sprintf("convert the %s files to JPEG or PNG", ext)
			break
		}
	}
	if i := slices.IndexFunc(set.Objects, func(o store.Object) bool {
		return strings.HasPrefix(o.Name, class+"/") && filename.IsArchive(o.Name) && !filename.BelongsToSystem(o.Name)
	}); i >= 0 {
		dir, base := path.Split(set.Objects[i].Name)
		advice = "to open archives, name them with a pattern: " + set.Path(dir+"*"+path.Ext(base))
	}
	return fmt.Errorf("%s: %v: %s", text, out, advice)
}

// noClasses is the error of a set without class folders. loose is a picture that lies directly in it, if there is one.
func noClasses(set *store.Set, loose string, out filename.LeftOut) error {
	switch {
	case loose != "":
		return fmt.Errorf("open %s: pictures such as %s are in no class folder: "+
			"put the pictures of each class into a folder of its own, or name their classes with --labels",
			set.Location, loose)
	case len(out) > 0:
		return fmt.Errorf("open %s: no class folders: %s; %v", set.Location, wanted, out)
	}
	return fmt.Errorf("open %s: no class folders: %s", set.Location, wanted)
}

// openFlat opens pictures that lie in one folder, their classes in a file.
func openFlat(set *store.Set, labelFile *labels.File) (*catalogue, error) {
	if err := refuseOwn(set); err != nil {
		return nil, err
	}
	pictures, out := pictures(set.Select(func(o *store.Object) bool {
		return !isFile(set.Path(o.Name), labelFile.Path)
	}))
	if len(pictures.Objects) == 0 && len(out) > 0 {
		return nil, fmt.Errorf("open %s: no pictures: %s; %v", set.Location, wanted, out)
	}
	entries := make([]entry, len(pictures.Objects))
	for i, o := range pictures.Objects {
		entries[i] = entry{name: o.Name, file: int32(i), length: o.Size}
	}
	classes, notes, err := applyLabels(labelFile, entries)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", set.Location, err)
	}
	c := newCatalogue(containers(pictures, false), entries, classes)
	c.remote = set.Remote
	c.notes = append(out.Notes(), notes...)
	if parts := filename.Parts(set.Folders); len(parts) > 0 {
		c.notes = append(c.notes, fmt.Sprintf("the pictures of several parts of the data set are taken together: %s",
			strings.Join(parts, ", ")))
	}
	return c, nil
}

// isFile says whether two paths name one file, as far as their text says.
func isFile(a, b string) bool {
	absA, errA := filepath.Abs(a)
	absB, errB := filepath.Abs(b)
	return errors.Join(errA, errB) == nil && absA == absB
}

// pictures returns the pictures of a set, and counts its other files.
func pictures(set *store.Set) (*store.Set, filename.LeftOut) {
	out := filename.LeftOut{}
	return set.Select(func(o *store.Object) bool {
		kind := filename.WhyLeftOut(o.Name)
		if kind != "" && o.Err != nil && !filename.BelongsToSystem(o.Name) {
			kind = "that cannot be read"
		}
		if kind != "" {
			out.Count(kind)
		}
		return kind == ""
	}), out
}

// applyLabels sorts the entries by their names, labels them by a file and returns the names of the classes.
func applyLabels(file *labels.File, entries []entry) (classes, notes []string, err error) {
	if len(entries) == 0 {
		return nil, nil, errors.New("no pictures: " + wanted)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	pictures := make([]string, len(entries))
	for i, e := range entries {
		pictures[i] = e.name
	}
	classes, numbers, notes, err := file.Assign(pictures)
	for i, number := range numbers {
		entries[i].label = number
	}
	return classes, notes, err
}
