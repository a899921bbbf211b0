package catalog

import (
	"archive/tar"
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/ditrun/ditrun/data/archive"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/data/table"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// synsetSuffix is what the file names of ImageNet on the Hugging Face hub end with.
var synsetSuffix = regexp.MustCompile(`_n\d{8}$`)

// badRow begins the member that stands for a row without picture; what follows is the reason.
const badRow = "ditrun: no picture: "

// unpackTable writes the pictures of a parquet file as members of a tar archive, in the order of the rows.
func unpackTable(ctx context.Context, f io.ReaderAt, size int64, out io.Writer) error {
	t := tar.NewWriter(out)
	total := int64(0)
	err := table.Pictures(ctx, f, size, func(p table.Picture) error {
		if len(p.Content) == 0 { // a bad picture like others
			reason := fmt.Sprintf("row %d has no picture", p.Row)
			if p.Path != "" {
				reason += fmt.Sprintf(", only the path %s", p.Path)
			}
			p.Content = []byte(badRow + reason)
		}
		if total += int64(len(p.Content)); total > archive.MaxUnpacked(size) {
			return fmt.Errorf("%d bytes unpack to more than %d", size, archive.MaxUnpacked(size))
		}
		return archive.Write(t, memberName(&p), p.Label, p.Content)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

// memberName is the name of a picture of a table in its archive.
func memberName(p *table.Picture) string {
	name := path.Base(p.Path)
	switch ext := path.Ext(name); {
	case name == "." || name == "/":
		return fmt.Sprintf("%08d.%s", p.Row, strings.ToLower(cmp.Or(picture.FormatOf(p.Content), "png")))
	case !filename.IsPicture(name):
		return name + ".png" // content decides in the end
	default:
		return synsetSuffix.ReplaceAllString(strings.TrimSuffix(name, ext), "") + ext
	}
}

// nameClasses gives the classes of a set, if it consists of tables, the names in their metadata, which have to be the
// same in all of them.
func (c *catalogue) nameClasses(ctx context.Context, set *store.Set, kinds []string) error {
	if c.unlabelled {
		return nil
	}
	all := make([][]string, len(kinds))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(indexWorkers)
	for i, kind := range kinds {
		if kind != "parquet" {
			continue
		}
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			f, err := set.File(i)
			if err != nil {
				return disk.OpenError(set.Path(set.Objects[i].Name), err)
			}
			defer f.Close()
			if all[i], err = table.ClassNames(f, set.Objects[i].Size); err != nil {
				return fmt.Errorf("open %s: %w", set.Path(set.Objects[i].Name), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	first := slices.IndexFunc(all, func(list []string) bool { return list != nil })
	if first < 0 {
		return nil
	}
	for i, list := range all {
		if list != nil && !slices.Equal(list, all[first]) {
			return fmt.Errorf(
				"open %s: it names %s (%s), and %s names %d (%s): want the same in all tables of a set",
				set.Path(set.Objects[i].Name), names.Plural(len(list), "class"), names.Few(list),
				set.Path(set.Objects[first].Name), len(all[first]), names.Few(all[first]))
		}
	}
	list := all[first]
	switch {
	case classes.IsSynset(c.classes[0]): // as the file names say
	case slices.ContainsFunc(kinds, func(kind string) bool { return kind != "parquet" && kind != "" }):
		c.notes = append(c.notes,
			fmt.Sprintf("the class names in %s are not used: there are archives beside the tables",
				set.Path(set.Objects[first].Name)))
	case len(list) < len(c.classes):
		return fmt.Errorf("open %s: there are labels up to %d, but names of %s (%s)", set.Location, len(c.classes)-1,
			names.Plural(len(list), "class"), names.Few(list))
	default:
		c.classes = list
	}
	return nil
}
