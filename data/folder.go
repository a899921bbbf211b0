package data

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/store"
)

// pictureExtensions are the names torchvision's ImageFolder takes for pictures, and GIF. What a file holds is still told
// by its content.
var pictureExtensions = []string{".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"}

func isPicture(name string) bool {
	return slices.Contains(pictureExtensions, strings.ToLower(path.Ext(name)))
}

// splitFolders are names of folders that hold parts of a data set, not classes.
var splitFolders = []string{"train", "training", "val", "valid", "validation", "test"}

// openFolder opens a tree of class folders with the rules of torchvision's ImageFolder: every folder in root is a
// class, numbered in byte order of the names; pictures are the files below it, at any depth, that end in jpg, jpeg,
// png, ppm, bmp, pgm, tif, tiff or webp in any case; links are followed. Within a class the samples are sorted by folder
// path, then by file name. A class folder without pictures is an error.
func openFolder(set *store.Set) (*catalogue, error) {
	classes := slices.Sorted(slices.Values(set.Folders))
	number := make(map[string]int32, len(classes))
	for i, c := range classes {
		number[c] = int32(i)
	}
	pictures := set.Select(func(o *store.Object) bool { return isPicture(o.Name) })
	entries := make([]entry, 0, len(pictures.Objects))
	loose := ""
	count := make([]int, len(classes))
	deep := true // no picture lies directly in a class folder
	files := containers(pictures, false)
	for i, o := range pictures.Objects {
		class, name, ok := strings.Cut(o.Name, "/")
		if !ok {
			loose = o.Name
			continue
		}
		deep = deep && strings.Contains(name, "/")
		label := number[class]
		count[label]++
		entries = append(entries, entry{name: name, label: label, file: int32(i), length: o.Size})
	}
	if len(classes) == 0 && loose != "" {
		return nil, fmt.Errorf("open %s: pictures such as %s lie directly in it: put the pictures of each class into a folder of its own, or name their classes with --labels", set.Location, loose)
	}
	if len(classes) == 0 {
		return nil, fmt.Errorf("open %s: no class folders: %s", set.Location, wanted)
	}
	splits := func(c string) bool { return slices.Contains(splitFolders, strings.ToLower(c)) }
	if deep && len(entries) > 0 && !slices.ContainsFunc(classes, func(c string) bool { return !splits(c) }) {
		return nil, fmt.Errorf("open %s: it holds parts of a data set (%s), not classes: name one of them, such as %s", set.Location, strings.Join(classes, ", "), set.Path(classes[0]))
	}
	for label, n := range count {
		if n == 0 {
			return nil, fmt.Errorf("open %s: class folder %q holds no pictures (%s)", set.Location, classes[label], strings.Join(pictureExtensions, " "))
		}
	}
	c := newCatalogue(files, entries, classes)
	c.remote = set.Remote
	return c, nil
}

// openFlat opens pictures that lie in one folder, their classes in a file.
func openFlat(set *store.Set, labels *labelFile) (*catalogue, error) {
	pictures := set.Select(func(o *store.Object) bool { return isPicture(o.Name) })
	entries := make([]entry, len(pictures.Objects))
	for i, o := range pictures.Objects {
		entries[i] = entry{name: o.Name, file: int32(i), length: o.Size}
	}
	classes, err := labels.apply(entries)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", set.Location, err)
	}
	c := newCatalogue(containers(pictures, false), entries, classes)
	c.remote = set.Remote
	return c, nil
}
