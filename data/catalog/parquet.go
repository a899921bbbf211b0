package catalog

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"golang.org/x/sync/errgroup"

	"github.com/ditrun/ditrun/data/archive"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/data/table"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// parquetColumns are the leaf columns of a table of pictures, as Hugging Face's datasets writes it; -1 where there
// is none.
type parquetColumns struct {
	bytes, path, label int
	labelName          string
	classes            []string // by label, as the metadata name them; nil where they do not
}

// The names in use for columns.
var (
	imageColumns = []string{"image", "img", "picture", "jpg", "png"}
	labelColumns = []string{"label", "labels", "cls", "fine_label"}
)

// findColumns looks for image {bytes, path} and label by the names in use.
func findColumns(schema *parquet.Schema) (parquetColumns, error) {
	c := parquetColumns{bytes: -1, path: -1, label: -1}
	names := map[string]int{}
	var all []string
	for i, p := range schema.Columns() {
		name := strings.Join(p, ".")
		names[name] = i
		all = append(all, name)
	}
	for _, image := range imageColumns {
		if i, ok := names[image+".bytes"]; ok {
			c.bytes = i
			if i, ok := names[image+".path"]; ok {
				c.path = i
			}
			break
		}
		if i, ok := names[image]; ok {
			c.bytes = i
			break
		}
	}
	for _, label := range labelColumns {
		if i, ok := names[label]; ok {
			c.label, c.labelName = i, label
			break
		}
	}
	if c.bytes < 0 || c.label < 0 {
		err := fmt.Errorf("columns %s: want image {bytes, path} and label", strings.Join(all, ", "))
		for _, name := range all {
			top, inner, _ := strings.Cut(name, ".")
			if strings.HasPrefix(inner, "list.") && slices.Contains(slices.Concat(imageColumns, labelColumns), top) {
				err = fmt.Errorf("%w: column %s holds a list in a row, not one value", err, top)
			}
		}
		return c, err
	}
	return c, nil
}

// synsetSuffix is what the file names of ImageNet on the Hugging Face hub end with.
var synsetSuffix = regexp.MustCompile(`_n\d{8}$`)

// unpackParquet writes the pictures of a parquet file as members of a tar archive, in the order of the rows.
func unpackParquet(ctx context.Context, f io.ReaderAt, size int64, out io.Writer) (err error) {
	defer func() {
		if r := recover(); r != nil { // the library panics at some damaged files
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	file, err := table.Open(f, size)
	if err != nil {
		return err
	}
	c, err := findColumns(file.Schema())
	if err != nil {
		return err
	}
	if c.classes, err = classesOfTable(file, c); err != nil {
		return err
	}
	t := tar.NewWriter(out)
	row, total := 0, int64(0)
	for g := range file.Groups() {
		rows, err := c.open(f, size, file, g)
		if err != nil {
			return err
		}
		for {
			if err = ctx.Err(); err != nil {
				break
			}
			var values [3]parquet.Value
			if values, err = rows.next(); err != nil {
				break
			}
			var n int64
			if n, err = writeRow(t, &c, row, values); err != nil {
				break
			}
			row++
			if total += n; total > archive.MaxUnpacked(size) {
				err = fmt.Errorf("%d bytes unpack to more than %d", size, archive.MaxUnpacked(size))
				break
			}
		}
		rows.close()
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("row %d: %w", row, err)
		}
	}
	if n := file.StoredRows(); int64(row) != n {
		return fmt.Errorf("damaged: %d rows, where the footer says %d", row, n)
	}
	return t.Close()
}

// tableRows are the rows of a row group: bytes, path and label of each.
type tableRows [3]parquet.ColumnChunkValueReader

// open opens a row group. Other columns than those of c are not read.
func (c *parquetColumns) open(f io.ReaderAt, size int64, file *table.File, group int) (rows tableRows, err error) {
	for i, index := range []int{c.bytes, c.path, c.label} {
		if index < 0 {
			continue
		}
		leaf, err := table.ColumnAt(file, index)
		if err == nil {
			err = checkColumn(&leaf, i)
		}
		if err == nil {
			var pages *parquet.FilePages
			if pages, err = leaf.Pages(f, size, file, group); err == nil {
				rows[i] = parquet.NewColumnChunkValueReader(pagesOf{file.RowGroups()[group].ColumnChunks()[index],
					pages})
			}
		}
		if err != nil {
			rows.close()
			return rows, err
		}
	}
	return rows, nil
}

// pagesOf is a column chunk whose pages are read by way of a pageReader.
type pagesOf struct {
	parquet.ColumnChunk
	pages parquet.Pages
}

func (p pagesOf) Pages() parquet.Pages { return p.pages }

// checkColumn says whether a column can be the i-th of tableRows.
func checkColumn(c *table.Column, i int) error {
	kind, label := c.Kind(), i == 2
	known := []parquet.Kind{parquet.Boolean, parquet.Int32, parquet.Int64, parquet.Int96, parquet.Float, parquet.Double,
		parquet.ByteArray, parquet.FixedLenByteArray}
	switch {
	case c.MaxRepetitionLevel > 0:
		return fmt.Errorf("column %s has a list in a row: want one value", c.Name)
	case !slices.Contains(known, kind):
		return fmt.Errorf("column %s has no type: all its values are null", c.Name)
	case label && (kind == parquet.Float || kind == parquet.Double):
		return fmt.Errorf("%s is of type %s: want a whole number or text (pandas makes such a column of whole numbers "+
			"where some are missing)", c.Name, kind)
	case label && kind != parquet.Int32 && kind != parquet.Int64 && kind != parquet.ByteArray:
		return fmt.Errorf("%s is of type %s: want a whole number or text", c.Name, kind)
	case !label && kind != parquet.ByteArray:
		return fmt.Errorf("%s is of type %s: want bytes", c.Name, kind)
	}
	return nil
}

// next returns the values of the next row, null where there is no such column, or io.EOF. They are valid until the next
// call.
func (r *tableRows) next() (values [3]parquet.Value, err error) {
	found, ended := 0, 0
	for i, column := range r {
		if column == nil {
			continue
		}
		n, err := column.ReadValues(values[i : i+1])
		switch {
		case n > 0:
			found++
		case errors.Is(err, io.EOF):
			ended++
		default:
			return values, cmp.Or(err, io.ErrNoProgress)
		}
	}
	switch {
	case ended == 0:
		return values, nil
	case found == 0:
		return values, io.EOF
	}
	return values, errors.New("damaged: columns of different lengths")
}

func (r *tableRows) close() {
	for _, column := range r {
		if column != nil {
			column.Close()
		}
	}
}

// badRow begins the member that stands for a row without picture; what follows is the reason.
const badRow = "ditrun: no picture: "

// parse returns the label of a row.
func (c *parquetColumns) parse(v parquet.Value) (l labels.Label, err error) {
	switch {
	case v.IsNull():
		return l, fmt.Errorf("%s is null: want a label in each row", c.labelName)
	case v.Kind() == parquet.ByteArray:
		l, err = labels.Parse(string(v.ByteArray()))
	default:
		l, err = labels.Number(v.Int64())
	}
	if err != nil {
		return l, err
	}
	if n := len(c.classes); n > 0 && l.Class == "" && int(l.Number) >= n {
		return l, fmt.Errorf("label %d: the file names %d classes, 0 to %d (%s)", l.Number, n, n-1, names.Few(c.classes))
	}
	return l, nil
}

func writeRow(t *tar.Writer, c *parquetColumns, row int, values [3]parquet.Value) (int64, error) {
	name := ""
	var content []byte
	if v := values[0]; !v.IsNull() {
		content = v.ByteArray()
	}
	if v := values[1]; !v.IsNull() {
		name = path.Base(string(v.ByteArray()))
	}
	l, err := c.parse(values[2])
	if err != nil {
		return 0, err
	}
	if len(content) == 0 { // a bad picture like others
		reason := fmt.Sprintf("row %d has no picture", row)
		if name != "" {
			reason += fmt.Sprintf(", only the path %s", values[1].ByteArray())
		}
		content = []byte(badRow + reason)
	}
	switch ext := path.Ext(name); {
	case name == "" || name == "." || name == "/":
		name = fmt.Sprintf("%08d", row)
		name += "." + strings.ToLower(cmp.Or(picture.FormatOf(content), "png"))
	case !filename.IsPicture(name):
		name += ".png" // content decides in the end
	default:
		name = synsetSuffix.ReplaceAllString(strings.TrimSuffix(name, ext), "") + ext
	}
	return int64(len(content)), archive.Write(t, name, l, content)
}

// parquetClasses returns the class names that Hugging Face's datasets keeps in the metadata, nil if there are none.
func parquetClasses(f io.ReaderAt, size int64) (names []string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	file, err := table.Open(f, size)
	if err != nil {
		return nil, err
	}
	c, err := findColumns(file.Schema())
	if err != nil {
		return nil, err
	}
	return classesOfTable(file, c)
}

// nameClasses gives the classes of a set, if it consists of tables, the names in their metadata, which have to be the
// same in all of them.
func (c *catalogue) nameClasses(ctx context.Context, set *store.Set, kinds []string, tables bool) error {
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
			if all[i], err = parquetClasses(f, set.Objects[i].Size); err != nil {
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
				"open %s: it names %d classes (%s), and %s names %d (%s): want the same in all tables of a set",
				set.Path(set.Objects[i].Name), len(list), names.Few(list),
				set.Path(set.Objects[first].Name), len(all[first]), names.Few(all[first]))
		}
	}
	list := all[first]
	switch {
	case classes.IsSynset(c.classes[0]): // as the file names say
	case !tables:
		c.notes = append(c.notes,
			fmt.Sprintf("the class names in %s are not used: there are archives beside the tables",
				set.Path(set.Objects[first].Name)))
	case len(list) < len(c.classes):
		return fmt.Errorf("open %s: there are labels up to %d, but names of %d classes (%s)",
			set.Location, len(c.classes)-1, len(list), names.Few(list))
	default:
		c.classes = list
	}
	return nil
}

// classesOfTable returns the names that the metadata give to the numbers in the column of labels.
func classesOfTable(file *table.File, c parquetColumns) ([]string, error) {
	text, ok := file.Lookup("huggingface")
	if !ok {
		return nil, nil
	}
	if leaf, err := table.ColumnAt(file, c.label); err != nil || leaf.Kind() == parquet.ByteArray {
		return nil, err
	}
	var meta struct {
		Info struct {
			Features map[string]json.RawMessage `json:"features"`
		} `json:"info"`
	}
	if err := json.Unmarshal([]byte(text), &meta); err != nil {
		return nil, fmt.Errorf("the metadata that name the classes (huggingface) cannot be read: %w", err)
	}
	var label struct {
		Names []string `json:"names"`
	}
	if feature := meta.Info.Features[c.labelName]; feature != nil {
		if err := json.Unmarshal(feature, &label); err != nil {
			return nil, fmt.Errorf("the metadata that name the classes (huggingface) cannot be read: %w", err)
		}
	}
	if i := slices.Index(label.Names, ""); i >= 0 {
		return nil, fmt.Errorf("the name of class %d in the metadata is empty", i)
	}
	return label.Names, nil
}
