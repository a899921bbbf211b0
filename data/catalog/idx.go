package catalog

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/idx"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// ClassesName is the file beside IDX files that names their classes, one a line. IDX files hold no names themselves.
const ClassesName = "classes.txt"

// idxSource is a pair of IDX files, kept whole in memory.
type idxSource struct {
	path       string // of the pictures
	pix        []byte
	labels     []byte
	rows, cols int
	order      []int // position in the files by sample id
	classes    []string
	hash       string
	notes      []string
}

// openIDXSet opens a pair of IDX files, plain or gzip: the image file, whose labels lie beside it, or a folder. Of
// several pairs in a folder split chooses "train" or "test" (files named t10k or test); "" takes train, and test only
// where there is nothing else. Files are paired by name (train-images-idx3-ubyte, train-labels-idx1-ubyte); a single
// pair may have any names. Gray levels become RGB. Samples are sorted by label, then by position; their names are the
// positions. Class names come from a file classes.txt, else they are "0", "1", ...
func openIDXSet(ctx context.Context, set *store.Set, split string) (Source, error) {
	name := ""
	if set.Single {
		name = set.Objects[0].Name
		whole, err := store.Open(ctx, set.Root) // the labels lie beside it
		if err != nil {
			return nil, disk.OpenError(set.Location, err)
		}
		whole.Location = set.Location
		set = whole
	}
	d, err := openIDX(set, name, split)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", set.Location, err)
	}
	if name == "" {
		if d.notes, err = besideIDX(set); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// besideIDX is the line that counts the files beside the IDX files of a folder.
func besideIDX(set *store.Set) ([]string, error) {
	images, labels, err := listIDX(set)
	if err != nil {
		return nil, err
	}
	out := filename.LeftOut{}
	for _, o := range set.Objects {
		if o.Name != ClassesName && !slices.Contains(images, o.Name) && !slices.Contains(labels, o.Name) {
			out.Count(cmp.Or(filename.WhyLeftOut(o.Name), strings.ToLower(path.Ext(o.Name))))
		}
	}
	return out.Notes(), nil
}

// belowIDX steps down to the only folder in a set that has IDX files of pictures, as torchvision keeps them in
// MNIST/raw. It returns nil where there is none.
func belowIDX(set *store.Set) (*store.Set, error) {
	var found []string
	for _, o := range set.Objects {
		dir := path.Dir(o.Name)
		if idx.IsImages(o.Name) && !filename.BelongsToSystem(o.Name) && !slices.Contains(found, dir) {
			found = append(found, dir)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return set.Below(found[0]), nil
	}
	for i := range found {
		found[i] = set.Path(found[i])
	}
	return nil, fmt.Errorf("open %s: several folders in it hold IDX files: name one of them: %s",
		set.Location, strings.Join(found, ", "))
}

// openIDXBelow opens a pair in a folder that was found below the one that the user named, and says so.
func openIDXBelow(ctx context.Context, below *store.Set) (Source, error) {
	src, err := openIDXSet(ctx, below, "")
	if d, ok := src.(*idxSource); ok && err == nil {
		d.notes = append(d.notes, fmt.Sprintf("the IDX files in %s are used", below.Location))
	}
	return src, err
}

func openIDX(set *store.Set, name, split string) (*idxSource, error) {
	images, labels, err := findIDX(set, name, split)
	if err != nil {
		return nil, err
	}
	d := &idxSource{path: set.Path(images)}
	dims, pix, err := readIDX(set, images, idx.Images)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", images, err)
	}
	n := dims[0]
	d.pix, d.rows, d.cols = pix, dims[1], dims[2]
	dims, d.labels, err = readIDX(set, labels, idx.Labels)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", labels, err)
	}
	if dims[0] != n {
		return nil, fmt.Errorf("%s in %s, %s in %s", names.Plural(n, "picture"), images,
			names.Plural(dims[0], "label"), labels)
	}
	if err := d.readClasses(set); err != nil {
		return nil, err
	}
	d.order = make([]int, n)
	for i := range d.order {
		d.order[i] = i
	}
	slices.SortStableFunc(d.order, func(a, b int) int { return int(d.labels[a]) - int(d.labels[b]) })
	// Names and lengths say nothing here: without the pixels every balanced set of one size would have one hash.
	sum := sha256.Sum256(d.pix)
	d.hash = hashCatalogue(n, func(i int) (Sample, int64) { return d.Sample(i), int64(d.rows * d.cols) }, sum[:])
	return d, nil
}

// readClasses fills in the class names.
func (d *idxSource) readClasses(set *store.Set) error {
	k := int(slices.Max(d.labels)) + 1
	i := indexOf(set, ClassesName)
	if i < 0 {
		d.classes = classes.Numbered(k)
		return nil
	}
	f, err := set.File(i)
	if err != nil {
		return err
	}
	defer f.Close()
	text := io.NewSectionReader(f, 0, min(set.Objects[i].Size, labels.MaxFile))
	for line, err := range disk.Lines(text, labels.MaxFile) {
		if err != nil {
			return fmt.Errorf("%s: %w", ClassesName, err)
		}
		if name := strings.TrimSpace(line.Text); name != "" {
			d.classes = append(d.classes, name)
		}
	}
	if len(d.classes) < k {
		return fmt.Errorf("%s: %s, labels go up to %d", ClassesName, names.Plural(len(d.classes), "name"), k-1)
	}
	return nil
}

// indexOf returns the index of a name in a set, -1 if it is not there.
func indexOf(set *store.Set, name string) int {
	return slices.IndexFunc(set.Objects, func(o store.Object) bool { return o.Name == name && o.Err == nil })
}

// maxSniff bounds how many files of a folder are looked into for IDX data.
const maxSniff = 64

// hasIDX says whether the folder holds an IDX image file.
func hasIDX(set *store.Set) (bool, error) {
	images, _, err := listIDX(set)
	return len(images) > 0, err
}

// listIDX returns the names of the image and label files directly in a folder, told by content.
func listIDX(set *store.Set) (images, labels []string, err error) {
	sniffed := 0
	for i, o := range set.Objects {
		if o.Err != nil || strings.Contains(o.Name, "/") || sniffed == maxSniff ||
			filename.IsSystem(o.Name) || filename.IsPicture(o.Name) || filename.IsArchive(o.Name) {
			continue
		}
		sniffed++
		f, err := set.File(i)
		switch {
		case err != nil && idx.IsImages(o.Name):
			return nil, nil, disk.OpenError(set.Path(o.Name), err)
		case err != nil:
			continue // it need not be one of the pair
		}
		switch idx.KindOf(io.NewSectionReader(f, 0, o.Size)) {
		case idx.Images:
			images = append(images, o.Name)
		case idx.Labels:
			labels = append(labels, o.Name)
		}
		f.Close()
	}
	return images, labels, nil
}

// findIDX returns the names of the pair to open: the image file is name, or chosen where that is "".
func findIDX(set *store.Set, name, split string) (images, labels string, err error) {
	if split != "" && split != "train" && split != "test" {
		return "", "", fmt.Errorf("split %q: want train or test", split)
	}
	allImages, allLabels, err := listIDX(set)
	switch {
	case err != nil:
		return "", "", err
	case name == "":
		if name, err = idx.Choose(allImages, split); err != nil {
			return "", "", err
		}
	case slices.Contains(allLabels, name):
		return "", "", errors.New("holds labels: name the image file beside it, or the folder")
	case !slices.Contains(allImages, name):
		return "", "", errors.New("an unknown kind of file: " + wanted)
	}
	label, ok := idx.LabelsOf(name, allLabels)
	if !ok && len(allImages) == 1 && len(allLabels) == 1 {
		label, ok = allLabels[0], true
	}
	if !ok {
		return "", "", fmt.Errorf("%s has no labels beside it: want %s, plain or .gz", name, idx.LabelName(name))
	}
	return name, label, nil
}

// readIDX reads a whole IDX file of the given kind.
func readIDX(set *store.Set, name string, kind uint32) (dims []int, elements []byte, err error) {
	i := indexOf(set, name)
	f, err := set.File(i)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	size := set.Objects[i].Size
	return idx.Read(io.NewSectionReader(f, 0, size), size, kind, picture.MaxPixels)
}

func (d *idxSource) Len() int          { return len(d.order) }
func (d *idxSource) Classes() []string { return d.classes }
func (d *idxSource) Order() string     { return "label, position" }
func (d *idxSource) Hash() string      { return d.hash }
func (d *idxSource) Notes() []string   { return d.notes }
func (d *idxSource) Close() error      { return nil }

// dropClasses makes one class without a name of all. The ids stay, and so does the hash.
func (d *idxSource) dropClasses() {
	d.labels = make([]byte, len(d.labels))
	d.classes = classes.Unnamed()
}

func (d *idxSource) Sample(i int) Sample {
	at := d.order[i]
	return Sample{fmt.Sprintf("%08d", at), int(d.labels[at])}
}

func (d *idxSource) Image(i int) (*picture.Image, error) {
	n := d.rows * d.cols
	at := d.order[i]
	img := picture.NewImage(d.cols, d.rows)
	for j, v := range d.pix[at*n : (at+1)*n] {
		img.Pix[3*j], img.Pix[3*j+1], img.Pix[3*j+2] = v, v, v
	}
	return img, nil
}
