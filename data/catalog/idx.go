package catalog

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
)

// IDX is the format of MNIST and its relatives: two zero bytes, the element type, the number of dimensions, the
// dimensions as big-endian 32-bit numbers, then the elements. Pictures are bytes [N, rows, columns], labels bytes [N].
const (
	idxImages = 0x00000803
	idxLabels = 0x00000801
)

// ClassesName is the file with class names, one a line, that may lie beside IDX files, which hold none.
const ClassesName = "classes.txt"

// idx is a pair of IDX files, kept whole in memory.
type idx struct {
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
// where there is nothing else. Files are paired by name (train-images-idx3-ubyte, train-labels-idx1-ubyte), a single
// pair whatever its names. Gray levels become RGB. Samples are sorted by label, then by position; their names are the
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

// imagesName is the usual name of an IDX file of pictures.
var imagesName = regexp.MustCompile(`(?i)images[-.]idx3-ubyte(\.gz)?$`)

// belowIDX steps down to the only folder in a set that has IDX files of pictures, as torchvision keeps them in
// MNIST/raw. It returns nil where there is none.
func belowIDX(set *store.Set) (*store.Set, error) {
	var found []string
	for _, o := range set.Objects {
		dir := path.Dir(o.Name)
		if imagesName.MatchString(o.Name) && !filename.BelongsToSystem(o.Name) && !slices.Contains(found, dir) {
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
	if d, ok := src.(*idx); ok && err == nil {
		d.notes = append(d.notes, fmt.Sprintf("the IDX files in %s are used", below.Location))
	}
	return src, err
}

func openIDX(set *store.Set, name, split string) (*idx, error) {
	images, labels, err := findIDX(set, name, split)
	if err != nil {
		return nil, err
	}
	d := &idx{path: set.Path(images)}
	dims, pix, err := readIDX(set, images, idxImages, 3)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", images, err)
	}
	n := dims[0]
	d.pix, d.rows, d.cols = pix, dims[1], dims[2]
	dims, d.labels, err = readIDX(set, labels, idxLabels, 1)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", labels, err)
	}
	if dims[0] != n {
		return nil, fmt.Errorf("%d pictures in %s, %d labels in %s", n, images, dims[0], labels)
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
func (d *idx) readClasses(set *store.Set) error {
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
		return fmt.Errorf("%s: %d names, labels go up to %d", ClassesName, len(d.classes), k-1)
	}
	return nil
}

// indexOf returns the place of a name in a set, -1 if it is not there.
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
	seen := 0
	for i, o := range set.Objects {
		if o.Err != nil || strings.Contains(o.Name, "/") || seen == maxSniff ||
			filename.IsSystem(o.Name) || filename.IsPicture(o.Name) || filename.IsArchive(o.Name) {
			continue
		}
		seen++
		f, err := set.File(i)
		switch {
		case err != nil && imagesName.MatchString(o.Name):
			return nil, nil, disk.OpenError(set.Path(o.Name), err)
		case err != nil:
			continue // nobody asked for it
		}
		switch magicIDX(io.NewSectionReader(f, 0, o.Size)) {
		case idxImages:
			images = append(images, o.Name)
		case idxLabels:
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
		if name, err = chooseIDX(allImages, split); err != nil {
			return "", "", err
		}
	case slices.Contains(allLabels, name):
		return "", "", errors.New("holds labels: name the image file beside it, or the folder")
	case !slices.Contains(allImages, name):
		return "", "", errors.New("a file of no known kind: " + wanted)
	}
	label, ok := labelsOf(name, allLabels)
	if !ok && len(allImages) == 1 && len(allLabels) == 1 {
		label, ok = allLabels[0], true
	}
	if !ok {
		return "", "", fmt.Errorf("%s has no labels beside it: want %s, plain or .gz", name, labelName(name))
	}
	return name, label, nil
}

// chooseIDX picks the image file of a split.
func chooseIDX(images []string, split string) (string, error) {
	if len(images) == 0 {
		return "", errors.New("no IDX image file (train-images-idx3-ubyte)")
	}
	var train, test, other []string
	for _, name := range images {
		switch low := strings.ToLower(name); {
		case strings.Contains(low, "train"):
			train = append(train, name)
		case strings.Contains(low, "t10k"), strings.Contains(low, "test"):
			test = append(test, name)
		default:
			other = append(other, name)
		}
	}
	of := train
	switch {
	case split == "test":
		of = test
	case split == "" && len(train) == 0 && len(other) > 0:
		of = other
	case split == "" && len(train) == 0:
		of = test
	}
	// Both a file and its compressed twin may be there.
	of = slices.CompactFunc(slices.Sorted(slices.Values(of)), func(a, b string) bool {
		return strings.TrimSuffix(a, ".gz") == strings.TrimSuffix(b, ".gz")
	})
	if len(of) == 0 {
		return "", fmt.Errorf("no IDX image file for split %q, found %s", split, strings.Join(images, ", "))
	}
	if len(of) > 1 {
		return "", fmt.Errorf("several IDX image files: name one of %s", strings.Join(of, ", "))
	}
	return of[0], nil
}

// labelName is the usual name of the labels that go with an image file, without .gz.
func labelName(images string) string {
	return strings.NewReplacer("images", "labels", "idx3", "idx1").Replace(strings.TrimSuffix(images, ".gz"))
}

func labelsOf(images string, labels []string) (string, bool) {
	want := labelName(images)
	for _, l := range labels { // sorted: the plain file before its .gz
		if strings.TrimSuffix(l, ".gz") == want {
			return l, true
		}
	}
	return "", false
}

// magicIDX returns the first four bytes of a file, behind gzip if that is what it is, or 0.
func magicIDX(f io.Reader) uint32 {
	r, _, err := unzip(f)
	if err != nil {
		return 0
	}
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0
	}
	return binary.BigEndian.Uint32(b[:])
}

// unzip reads f through gzip if it begins as such a file does.
func unzip(f io.Reader) (r io.Reader, zipped bool, err error) {
	b := bufio.NewReaderSize(f, 1<<16)
	if head, _ := b.Peek(2); !bytes.Equal(head, []byte{0x1f, 0x8b}) {
		return b, false, nil
	}
	r, err = gzip.NewReader(b)
	return r, true, err
}

// readIDX reads a whole IDX file of the given kind.
func readIDX(set *store.Set, name string, magic uint32, rank int) (dims []int, elements []byte, err error) {
	i := indexOf(set, name)
	f, err := set.File(i)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	size := set.Objects[i].Size
	return parseIDX(io.NewSectionReader(f, 0, size), size, magic, rank)
}

// parseIDX reads an IDX file of size bytes as stored. What the header claims is checked against the size before it
// is believed: exactly for a plain file, and by the best ratio deflate can reach for a compressed one.
func parseIDX(f io.Reader, size int64, magic uint32, rank int) (dims []int, elements []byte, err error) {
	r, zipped, err := unzip(f)
	if err != nil {
		return nil, nil, fmt.Errorf("gzip: %w", err)
	}
	header := make([]byte, 4+4*rank)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, nil, fmt.Errorf("ends inside its header of %d bytes", len(header))
	}
	if m := binary.BigEndian.Uint32(header); m != magic {
		return nil, nil, fmt.Errorf("magic %#08x, want %#08x (bytes, %d dimensions)", m, magic, rank)
	}
	limit := size - int64(len(header))
	if zipped {
		const maxRatio = 1032
		limit = size * maxRatio
	}
	total := int64(1)
	for i := range rank {
		d := int64(binary.BigEndian.Uint32(header[4+4*i:]))
		dims = append(dims, int(d))
		if d == 0 {
			return nil, nil, fmt.Errorf("dimension %d is 0", i)
		}
		if total > limit/d {
			return nil, nil, fmt.Errorf("truncated: the header promises more than the %d bytes of the file can hold",
				size)
		}
		total *= d
		if i > 0 && total/int64(dims[0]) > picture.MaxPixels {
			return nil, nil, fmt.Errorf("pictures of more than %d pixels", picture.MaxPixels)
		}
	}
	if !zipped && total != limit {
		return nil, nil, fmt.Errorf("%d bytes, want %d for dimensions %v", size, total+int64(len(header)), dims)
	}
	elements = make([]byte, total)
	if n, err := io.ReadFull(r, elements); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil, fmt.Errorf("truncated: %d of %d elements", n, total)
		}
		return nil, nil, err
	}
	// Reading on to the end makes gzip check its sum.
	var rest [1]byte
	switch n, err := io.ReadFull(r, rest[:]); {
	case n > 0:
		return nil, nil, fmt.Errorf("goes on after the %d elements of dimensions %v", total, dims)
	case !errors.Is(err, io.EOF):
		return nil, nil, fmt.Errorf("truncated: %w", err)
	}
	return dims, elements, nil
}

func (d *idx) Len() int          { return len(d.order) }
func (d *idx) Classes() []string { return d.classes }
func (d *idx) Order() string     { return "label, position" }
func (d *idx) Hash() string      { return d.hash }
func (d *idx) Notes() []string   { return d.notes }
func (d *idx) Close() error      { return nil }

func (d *idx) Sample(i int) Sample {
	at := d.order[i]
	return Sample{fmt.Sprintf("%08d", at), int(d.labels[at])}
}

func (d *idx) Image(i int) (*picture.Image, error) {
	n := d.rows * d.cols
	at := d.order[i]
	img := picture.NewImage(d.cols, d.rows)
	for j, v := range d.pix[at*n : (at+1)*n] {
		img.Pix[3*j], img.Pix[3*j+1], img.Pix[3*j+2] = v, v, v
	}
	return img, nil
}
