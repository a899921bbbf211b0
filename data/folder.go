package data

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// folderExtensions are the names torchvision's ImageFolder takes for pictures. What a file holds is still told by
// its content.
var folderExtensions = []string{".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}

// folder is a tree of class folders.
type folder struct {
	root    string
	classes []string
	files   []folderFile
	hash    string
}

type folderFile struct {
	name   string // slash-separated path within the class folder
	label  int
	length int64
}

// OpenFolder opens a tree of class folders with the rules of torchvision's ImageFolder: every folder in root is a
// class, numbered in byte order of the names; pictures are the files below it, at any depth, that end in jpg, jpeg,
// png, ppm, bmp, pgm, tif, tiff or webp in any case; symbolic links are followed. Within a class the samples are
// sorted by folder path, then by file name. A class folder without pictures is an error.
func OpenFolder(root string) (Source, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, openError(root, err)
	}
	f := &folder{root: root}
	loose := ""
	for _, e := range entries { // sorted by name
		info, err := os.Stat(filepath.Join(root, e.Name()))
		if err == nil && info.IsDir() {
			f.classes = append(f.classes, e.Name())
		} else if isPicture(e.Name()) {
			loose = e.Name()
		}
	}
	if len(f.classes) == 0 && loose != "" {
		return nil, fmt.Errorf("open %s: pictures such as %s lie directly in it: put the pictures of each class into a folder of its own", root, loose)
	}
	if len(f.classes) == 0 {
		return nil, fmt.Errorf("open %s: no class folders: %s", root, wanted)
	}
	for label, class := range f.classes {
		n := len(f.files)
		if err := f.list(class, label); err != nil {
			return nil, fmt.Errorf("open %s: %w", root, err)
		}
		if len(f.files) == n {
			return nil, fmt.Errorf("open %s: class folder %q holds no pictures (%s)", root, class, strings.Join(folderExtensions, " "))
		}
	}
	f.hash = hashCatalogue(len(f.files), func(i int) (Sample, int64) { return f.Sample(i), f.files[i].length }, nil)
	return f, nil
}

func isPicture(name string) bool {
	return slices.Contains(folderExtensions, strings.ToLower(path.Ext(name)))
}

// list appends the pictures of one class folder.
func (f *folder) list(class string, label int) error {
	type entry struct {
		dir, name string
		length    int64
	}
	var found []entry
	var walk func(dir string, above []os.FileInfo) error
	walk = func(dir string, above []os.FileInfo) error {
		full := filepath.Join(f.root, class, filepath.FromSlash(dir))
		here, err := os.Stat(full)
		if err != nil {
			return err
		}
		for _, a := range above {
			if os.SameFile(a, here) {
				return fmt.Errorf("%s: symbolic link to a folder above it", full)
			}
		}
		entries, err := os.ReadDir(full)
		if err != nil {
			return err
		}
		for _, e := range entries {
			file := filepath.Join(full, e.Name())
			if e.Type().IsRegular() && !isPicture(e.Name()) {
				continue
			}
			info, err := os.Stat(file)
			switch {
			case err == nil && info.IsDir():
				if err := walk(path.Join(dir, e.Name()), append(slices.Clip(above), here)); err != nil {
					return err
				}
			case !isPicture(e.Name()):
			case err != nil:
				return err
			case !info.Mode().IsRegular():
				return fmt.Errorf("%s: not a regular file", file)
			default:
				found = append(found, entry{dir, e.Name(), info.Size()})
			}
		}
		return nil
	}
	if err := walk("", nil); err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.dir, b.dir), cmp.Compare(a.name, b.name))
	})
	for _, e := range found {
		f.files = append(f.files, folderFile{path.Join(e.dir, e.name), label, e.length})
	}
	return nil
}

func (f *folder) Len() int          { return len(f.files) }
func (f *folder) Classes() []string { return f.classes }
func (f *folder) Order() string     { return "label, folder, file name" }
func (f *folder) Hash() string      { return f.hash }
func (f *folder) Close() error      { return nil }

func (f *folder) Sample(i int) Sample {
	return Sample{f.files[i].name, f.files[i].label}
}

func (f *folder) Image(i int) (*Image, error) {
	e := f.files[i]
	name := filepath.Join(f.root, f.classes[e.label], filepath.FromSlash(e.name))
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, openError(name, err)
	}
	img, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return img, nil
}
