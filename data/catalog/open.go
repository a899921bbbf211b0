package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/archive"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/idx"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
)

const wanted = "want a folder of pictures (jpg, png, ...), tar archives, parquet or IDX files " +
	"(train-images-idx3-ubyte)"

// Open opens the pictures at location, which is a folder, a file, a pattern of files (train-*.tar) or one of these in
// S3-compatible storage (s3://bucket/key). What it holds is told by content:
//
//   - class folders with pictures, with the rules of torchvision's ImageFolder, see openClassFolders for where they
//     differ; pictures in no class folder, which then have no classes;
//   - ILSVRC2012_img_train.tar, an archive of class archives, read in place; or a folder of class archives;
//   - WebDataset archives; an archive of class folders; a flat archive or folder with o.Labels;
//   - any of these archives compressed with gzip or zstd, and parquet files as of Hugging Face's datasets, which are
//     unpacked into the cache first;
//   - IDX files of the MNIST family, plain or gzip, also in the only folder below location that has such files.
//
// Of several archives or IDX files in one folder that are parts of a data set the training part is opened. Files that
// are not taken for pictures are counted in a line of Notes.
func Open(ctx context.Context, location string, o Options) (Source, error) {
	o.Orientation = cmp.Or(o.Orientation, picture.AsStored)
	if err := o.Orientation.Validate(); err != nil {
		return nil, fmt.Errorf("open %s: %w", location, err)
	}
	set, err := store.Open(ctx, location)
	if err != nil {
		return nil, disk.OpenError(location, err)
	}
	var labelFile *labels.File
	if o.Labels != "" {
		if labelFile, err = labels.Read(o.Labels); err != nil {
			return nil, err
		}
	}
	if slices.ContainsFunc(set.Objects, func(o store.Object) bool { return o.Name == latentsManifest }) && !set.Single {
		return nil, fmt.Errorf("open %s: holds encoded latents (%s), want pictures", location, latentsManifest)
	}
	if len(set.Objects) == 0 && len(set.Folders) == 0 {
		return nil, fmt.Errorf("open %s: empty: %s", location, wanted)
	}
	for _, folder := range set.Unlisted {
		if filename.SystemFolder(folder.Name) == "" {
			return nil, fmt.Errorf("open %s: the folder cannot be listed: %w: make it readable, or move it out of %s",
				set.Path(folder.Name), folder.Err, location)
		}
	}
	c, err := openKind(ctx, set, labelFile, &o)
	if err != nil {
		return nil, err
	}
	switch c := c.(type) {
	case *idxSource:
		if o.NoClasses {
			c.dropClasses()
		}
		c.classes = classes.AsText(c.classes)
	case *catalogue:
		if (o.NoClasses || c.unlabelled) && !classes.None(c.classes) {
			c.dropClasses()
		}
		c.classes = classes.AsText(c.classes)
		c.orientation = o.Orientation
		c.budget = newBudget(cmp.Or(o.DecodeMemory, defaultDecodeMemory))
		alike, err := classes.Alike(c.classes)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("open %s: %w", location, err)
		}
		c.notes = append(append(c.notes, alike...), classes.Notes(c.classes)...)
	}
	return c, nil
}

func openKind(ctx context.Context, set *store.Set, labelFile *labels.File, o *Options) (Source, error) {
	if set.Single {
		kind, err := kindOf(set, 0)
		if err != nil {
			return nil, err
		}
		if kind == "IDX" || kind == "" && !filename.IsArchive(set.Objects[0].Name) {
			return openIDXSet(ctx, set, "")
		}
		return openPacked(ctx, set, labelFile, o)
	}
	archives := set.Select(func(o *store.Object) bool {
		return filename.IsArchive(o.Name) &&
			!filename.BelongsToSystem(o.Name)
	})
	pictures := slices.ContainsFunc(set.Objects, func(o store.Object) bool { return filename.WhyLeftOut(o.Name) == "" })
	if len(archives.Objects) > 0 && !pictures {
		return openBeside(ctx, set, archives, labelFile, o)
	}
	if has, err := hasIDX(set); err != nil || has {
		if err != nil {
			return nil, err
		}
		return openIDXSet(ctx, set, "")
	}
	set, note := trainingPart(set)
	if !pictures {
		below, err := belowIDX(set)
		if err != nil {
			return nil, err
		}
		if below != nil {
			return openIDXBelow(ctx, below)
		}
	}
	var c *catalogue
	var err error
	if labelFile != nil {
		c, err = openFlat(set, labelFile)
	} else {
		c, err = openFolder(set, o)
	}
	if err != nil {
		return nil, err
	}
	if note != "" {
		c.notes = append(c.notes, note)
	}
	return c, nil
}

// openBeside opens the archives of a set, and counts the files beside them.
func openBeside(ctx context.Context, set, archives *store.Set, labelFile *labels.File, o *Options) (Source, error) {
	c, err := openPacked(ctx, archives, labelFile, o)
	if err != nil {
		return nil, err
	}
	out := filename.LeftOut{}
	for _, f := range set.Objects {
		isLabels := labelFile != nil && isFile(set.Path(f.Name), labelFile.Path)
		if (filename.BelongsToSystem(f.Name) || !filename.IsArchive(f.Name)) && !isLabels {
			out.Count(filename.WhyLeftOut(f.Name))
		}
	}
	if len(out) > 0 {
		c.notes = append(c.notes, fmt.Sprintf("beside the archives %v", out))
	}
	return c, nil
}

// trainingPart steps down to the training pictures of ImageNet as Kaggle packs it, and says so.
func trainingPart(set *store.Set) (part *store.Set, note string) {
	for _, dir := range []string{"Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/train"} {
		if slices.ContainsFunc(set.Objects, func(o store.Object) bool { return strings.HasPrefix(o.Name, dir+"/") }) {
			return set.Below(dir), fmt.Sprintf("only the training part is used: %s", set.Path(dir))
		}
	}
	return set, ""
}

// chooseSplit keeps the training files where there are others beside them.
func chooseSplit(set *store.Set) (*store.Set, string) {
	var found []string
	for i := range set.Objects {
		if s := filename.FilePart(set.Objects[i].Name); !slices.Contains(found, s) {
			found = append(found, s)
		}
	}
	if len(found) < 2 || !slices.Contains(found, "train") {
		return set, ""
	}
	chosen := set.Select(func(o *store.Object) bool { return filename.FilePart(o.Name) == "train" })
	return chosen, fmt.Sprintf(
		"of %d files in %s only the %d of the training part are used; a pattern such as %s opens others",
		len(set.Objects), set.Location, len(chosen.Objects), set.Path("val*"))
}

// kindOf tells what a file is by its first bytes: parquet, tar, gzip (of a tar), zstd, IDX, or "".
func kindOf(set *store.Set, i int) (string, error) {
	f, err := set.File(i)
	if err != nil {
		return "", disk.OpenError(set.Path(set.Objects[i].Name), err)
	}
	defer f.Close()
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", disk.OpenError(set.Path(set.Objects[i].Name), err)
	}
	head = head[:n]
	starts := func(s string) bool { return strings.HasPrefix(string(head), s) }
	switch {
	case starts("PAR1"):
		return "parquet", nil
	case archive.IsTar(head):
		return "tar", nil
	case starts("\x28\xb5\x2f\xfd"):
		return "zstd", nil
	case starts("\x1f\x8b"):
		if k := idx.KindOf(io.NewSectionReader(f, 0, set.Objects[i].Size)); k == idx.Images || k == idx.Labels {
			return "IDX", nil
		}
		return "gzip", nil
	case starts("\x00\x00\x08\x01"), starts("\x00\x00\x08\x03"):
		return "IDX", nil
	}
	return "", nil
}
