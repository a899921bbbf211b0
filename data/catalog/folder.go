package catalog

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/names"
)

// openFolder opens a tree of class folders. A folder of pictures without class folders, or any with o.NoClasses, is
// opened as one without classes.
func openFolder(set *store.Set, o *Options) (*catalogue, error) {
	pictures, out := pictures(set)
	classes := slices.DeleteFunc(slices.Sorted(slices.Values(set.Folders)), filename.IsSystem)
	in := classFolders(pictures, classes)
	sorted, first := 0, ""
	for _, class := range classes {
		if sorted += in[class].pictures; first == "" && sorted > 0 {
			first = class
		}
	}
	loose := len(pictures.Objects) - sorted
	switch {
	case len(pictures.Objects) == 0 && (o.NoClasses || len(classes) == 0):
		return nil, nothing(set, out)
	case o.NoClasses || sorted == 0 && loose > 0:
		return openUnsorted(set, pictures, classes, out, o.NoClasses)
	case loose > sorted:
		if err := refuseOwn(set); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("open %s: %s in no class folder, and only %d in class folders such as %q: "+
			"--unconditional takes all of them, without classes; for classes put them into class folders",
			set.Location, names.Plural(loose, "picture"), sorted, first)
	}
	return openClassFolders(set, pictures, classes, in, out)
}

// openUnsorted opens the pictures of a folder, at any depth, as a set without classes. Their order is that of class
// folders, after the pictures that are in no folder.
func openUnsorted(set, pictures *store.Set, folders []string, out filename.LeftOut, wanted bool) (*catalogue, error) {
	if err := refuseOwn(set); err != nil {
		return nil, err
	}
	if drawnBySample(set) && !wanted {
		return nil, fmt.Errorf("open %s: holds pictures drawn by sample: to use them all the same give their classes "+
			"with --labels %s, or --unconditional", set.Location, set.Path("labels.csv"))
	}
	classes, notes := folders, out.Notes()
	if slices.ContainsFunc(pictures.Objects, func(o store.Object) bool { return !strings.Contains(o.Name, "/") }) {
		classes = append([]string{""}, folders...)
	}
	entries := make([]entry, len(pictures.Objects))
	for i, o := range pictures.Objects {
		folder, name, ok := strings.Cut(o.Name, "/")
		if !ok {
			folder, name = "", o.Name
		}
		label, _ := slices.BinarySearch(classes, folder)
		entries[i] = entry{name: name, label: int32(label), file: int32(i), length: o.Size}
	}
	if parts := filename.Parts(folders); len(parts) > 0 {
		notes = append(notes, takenTogether(parts))
	}
	if twins := twins(set, folders); len(twins) > 0 {
		notes = append(notes, fmt.Sprintf("folders %s are the same, through a link: its pictures are taken twice",
			names.Few(twins)))
	}
	if !wanted {
		notes = append(notes, noFolders)
	}
	c := newCatalogue(containers(pictures, false), entries, classes)
	c.remote, c.notes = set.Remote, notes
	c.dropClasses()
	return c, nil
}

// noFolders says what becomes of pictures that nobody sorted.
const noFolders = "no class folders: the pictures are used without classes, for an unconditional model; " +
	"class folders or --labels give them classes"

func takenTogether(parts []string) string {
	return "the pictures of several parts of the data set are taken together: " + strings.Join(parts, ", ")
}

// openClassFolders opens a tree of class folders: every folder in root is a class, numbered in byte order of the names;
// pictures are the files below it, at any depth, with one of [filename.PictureExtensions] in any case; links are
// followed. Within a class the samples are sorted by folder path, then by file name. So far these are the rules of
// torchvision's ImageFolder.
//
// Unlike there, hidden and system folders and files are left out; folders that hold parts of a data set (train,
// test), or output of ditrun, are an error; so are two folders whose names differ only in how their letters are
// composed. A class folder without pictures is an error, as in torchvision.
func openClassFolders(set, pictures *store.Set, classes []string, in map[string]*classFolder,
	out filename.LeftOut) (*catalogue, error) {
	number := make(map[string]int32, len(classes))
	for i, c := range classes {
		number[c] = int32(i)
	}
	notes, err := checkFolders(set, classes, in)
	if err != nil {
		return nil, err
	}
	entries := make([]entry, 0, len(pictures.Objects))
	for i, o := range pictures.Objects {
		class, name, ok := strings.Cut(o.Name, "/")
		if !ok {
			out.Count("in no class folder (--unconditional takes them too)")
			continue
		}
		entries = append(entries, entry{name: name, label: number[class], file: int32(i), length: o.Size})
	}
	if len(classes) > 1 && !slices.ContainsFunc(classes, func(c string) bool { return !dated.MatchString(c) }) {
		notes = append(notes, fmt.Sprintf("each year or date is a class (%s): --unconditional takes the pictures "+
			"without classes", names.Few(classes)))
	}
	c := newCatalogue(containers(pictures, false), entries, classes)
	c.remote = set.Remote
	c.notes = append(out.Notes(), notes...)
	return c, nil
}

// dated finds the names of folders that sort photos by time: 2024, 2024-05, "2023 Rome".
var dated = regexp.MustCompile(`^(19|20)\d\d(\D.*|\d\d|\d{4})?$`)

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
	if twins := twins(set, classes); len(twins) > 0 {
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

// twins are the pairs of folders that are one folder, through a link.
func twins(set *store.Set, folders []string) (pairs []string) {
	for _, f := range folders {
		if first, ok := set.Twins[f]; ok {
			pairs = append(pairs, fmt.Sprintf("%q and %q", first, f))
		}
	}
	return pairs
}

// convertible are kinds of pictures that are not read.
var convertible = []string{
	".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".svg", ".psd", ".pcx",
}

// toConvert says what to do with files that other programs can make pictures of, "" where there are none.
func toConvert(out filename.LeftOut) string {
	for _, ext := range convertible {
		if out[ext] > 0 {
			return fmt.Sprintf("convert the %s files to JPEG or PNG", ext)
		}
	}
	return ""
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
		return fmt.Errorf("%s: put pictures into it, or remove it; --unconditional takes the pictures there are, "+
			"without classes", text)
	}
	advice := cmp.Or(toConvert(out), "put pictures into it, or move it elsewhere; --unconditional takes the "+
		"pictures there are, without classes")
	if i := slices.IndexFunc(set.Objects, func(o store.Object) bool {
		return strings.HasPrefix(o.Name, class+"/") && filename.IsArchive(o.Name) && !filename.BelongsToSystem(o.Name)
	}); i >= 0 {
		dir, base := path.Split(set.Objects[i].Name)
		advice = "to open archives, name them with a pattern: " + set.Path(dir+"*"+path.Ext(base))
	}
	return fmt.Errorf("%s: %v: %s", text, out, advice)
}

// nothing is the error of a set without pictures and class folders.
func nothing(set *store.Set, out filename.LeftOut) error {
	text := fmt.Sprintf("open %s: no pictures: %s", set.Location, wanted)
	if len(out) > 0 {
		text += "; " + out.String()
	}
	if advice := toConvert(out); advice != "" {
		text += ": " + advice
	}
	return errors.New(text)
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
		c.notes = append(c.notes, takenTogether(parts))
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
