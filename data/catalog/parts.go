package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/store"
)

// A classFolder is what a folder that may be a class holds.
type classFolder struct {
	pictures, direct int      // pictures at any depth, and directly in it
	folders          []string // in it that have pictures
}

// classFolders describes the folders of a set of pictures.
func classFolders(pictures *store.Set, classes []string) map[string]*classFolder {
	in := make(map[string]*classFolder, len(classes))
	for _, c := range classes {
		in[c] = &classFolder{}
	}
	for _, o := range pictures.Objects { // sorted: the pictures of a folder follow each other
		class, name, ok := strings.Cut(o.Name, "/")
		if !ok {
			continue
		}
		f := in[class]
		f.pictures++
		folder, _, deeper := strings.Cut(name, "/")
		switch n := len(f.folders); {
		case !deeper:
			f.direct++
		case n == 0 || f.folders[n-1] != folder:
			f.folders = append(f.folders, folder)
		}
	}
	return in
}

// checkParts refuses a set whose folders are not classes but parts of a data set, and notes where they may be.
func checkParts(set *store.Set, classes []string, in map[string]*classFolder) (notes []string, err error) {
	filled := slices.DeleteFunc(slices.Clone(classes), func(c string) bool { return in[c].pictures == 0 })
	parts := filename.Parts(classes)
	if len(parts) > 0 {
		others := slices.DeleteFunc(slices.Clone(filled), func(c string) bool { return slices.Contains(parts, c) })
		deep := slices.ContainsFunc(parts, func(p string) bool { return in[p].direct == 0 && len(in[p].folders) > 1 })
		if len(others) <= len(parts) || deep || shareFolders(parts, others, in) {
			return nil, refuseParts(set, parts, in)
		}
		notes = append(notes, fmt.Sprintf("%s are taken for classes, as there are %d others: "+
			"if they are parts of the data set, name one of them, such as %s",
			strings.Join(parts, " and "), len(others), set.Path(parts[0])))
	}
	whole := slices.DeleteFunc(slices.Clone(filled), func(c string) bool { // parts with class folders in them
		part := filename.FolderPart(c)
		return part == "" || in[c].direct > 0
	})
	if len(whole) > 0 && len(whole) == len(filled) {
		return nil, refuseParts(set, filled, in)
	}
	for _, c := range whole {
		if len(parts) == 0 && len(in[c].folders) > 1 {
			notes = append(notes, fmt.Sprintf("%q is taken for a class, and its %d folders are not: "+
				"if it is a part of the data set, name %s", c, len(in[c].folders), set.Path(c)))
		}
	}
	within := 0
	example := ""
	for _, c := range filled {
		f := in[c]
		if inner := filename.Parts(f.folders); len(inner) > 0 {
			if within++; example == "" {
				example = fmt.Sprintf("%s of class %q", strings.Join(inner, " and "), c)
			}
			if len(filled) == 1 && f.direct == 0 {
				return nil, fmt.Errorf("open %s: %s holds parts of a data set (%s), not classes: "+
					"name one of them, such as %s",
					set.Location, set.Path(c), strings.Join(inner, ", "), set.Path(c+"/"+inner[0]))
			}
		}
	}
	c := append(filled, "")[0]
	part := filename.FolderPart(c)
	switch {
	case within > 0:
		notes = append(notes, fmt.Sprintf("pictures of several parts of the data set are in one class, "+
			"such as %s (%d of %d classes)", example, within, len(filled)))
	case len(filled) == 1 && in[c].direct == 0 && len(in[c].folders) > 1:
		notes = append(notes, fmt.Sprintf("all pictures are in one class, %q: "+
			"to make classes of the %d folders in it, name %s; --unconditional takes the pictures without classes",
			c, len(in[c].folders), set.Path(c)))
	case len(filled) == 1 && part != "":
		notes = append(notes, fmt.Sprintf("all pictures are in one class, called %q", c))
	}
	return notes, nil
}

// shareFolders says whether two parts have a folder of one name in them, or one of a name that is another class's.
func shareFolders(parts, others []string, in map[string]*classFolder) bool {
	known := map[string]bool{}
	for _, c := range others {
		known[c] = true
	}
	for _, p := range parts {
		for _, f := range in[p].folders {
			if known[f] {
				return true
			}
		}
		for _, f := range in[p].folders {
			known[f] = true
		}
	}
	return false
}

// refuseParts is the error that names the parts of a data set and one to open: with class folders rather than without,
// and the training part rather than others.
func refuseParts(set *store.Set, parts []string, in map[string]*classFolder) error {
	rank := func(p string) (n int) {
		if part := filename.FolderPart(p); part == "train" {
			n++
		}
		if len(in[p].folders) > 0 {
			n += 2
		}
		return n
	}
	best := parts[0]
	for _, p := range parts {
		if rank(p) > rank(best) {
			best = p
		}
	}
	text := fmt.Sprintf("it holds parts of a data set (%s), not classes: ", strings.Join(parts, ", "))
	if len(in[best].folders) == 0 {
		return fmt.Errorf("open %s: %snone of them has class folders: name one of them, such as %s; "+
			"to give its pictures classes, sort them into a folder for each class, or name the classes with --labels",
			set.Location, text, set.Path(best))
	}
	return fmt.Errorf("open %s: %sname one of them, such as %s", set.Location, text, set.Path(best))
}
