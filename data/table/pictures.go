package table

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/internal/names"
)

// A Picture is a row of a table of pictures, as Hugging Face's datasets writes it: image {bytes, path}, and mostly
// label.
type Picture struct {
	Row     int
	Content []byte        // empty where the row has no picture; valid until found returns
	Path    string        // the file it was made from, "" if the row does not say
	Label   *labels.Label // nil where the table has none
}

// Pictures calls found with the rows of a table of pictures in their order; an error of found ends it.
func Pictures(ctx context.Context, f io.ReaderAt, size int64, found func(Picture) error) (err error) {
	defer recoverDamage(&err)
	file, c, err := openPictures(f, size)
	if err != nil {
		return err
	}
	row := 0
	for g := range file.Groups() {
		rows, err := c.open(f, size, file, g)
		if err != nil {
			return err
		}
		for err == nil {
			if err = ctx.Err(); err != nil {
				break
			}
			var values [3]parquet.Value
			if values, err = rows.next(); err != nil {
				break
			}
			p := Picture{Row: row}
			if p.Label, err = c.labelOf(values[2]); err != nil {
				break
			}
			if !values[0].IsNull() {
				p.Content = values[0].ByteArray()
			}
			if !values[1].IsNull() {
				p.Path = string(values[1].ByteArray())
			}
			if err = found(p); err == nil {
				row++
			}
		}
		rows.close()
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("row %d: %w", row, err)
		}
	}
	if n := file.StoredRows(); int64(row) != n {
		return fmt.Errorf("damaged: %s, where the footer says %d", names.Plural(row, "row"), n)
	}
	return nil
}

// ClassNames returns the names of the classes that Hugging Face's datasets keeps in the metadata of a table of
// pictures, by label, nil if there are none.
func ClassNames(f io.ReaderAt, size int64) (names []string, err error) {
	defer recoverDamage(&err)
	_, c, err := openPictures(f, size)
	return c.classes, err
}

// recoverDamage makes an error of a panic: the library panics at some damaged files.
func recoverDamage(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("damaged: %v", r)
	}
}

func openPictures(f io.ReaderAt, size int64) (*File, pictureColumns, error) {
	file, err := Open(f, size)
	if err != nil {
		return nil, pictureColumns{}, err
	}
	c, err := findColumns(file.Schema())
	if err == nil {
		c.classes, err = classNames(file, c)
	}
	return file, c, err
}

// pictureColumns are the leaf columns of a table of pictures; -1 where there is none.
type pictureColumns struct {
	bytes, path, label int
	labelName          string
	classes            []string // by label, as the metadata name them; nil where they do not
}

// The names in use for columns.
var (
	imageColumns = []string{"image", "img", "picture", "jpg", "png"}
	labelColumns = []string{"label", "labels", "cls", "fine_label"}
)

// findColumns looks for image {bytes, path} and label by the names in use. There may be no label.
func findColumns(schema *parquet.Schema) (pictureColumns, error) {
	c := pictureColumns{bytes: -1, path: -1, label: -1}
	index := map[string]int{}
	var all []string
	for i, p := range schema.Columns() {
		name := strings.Join(p, ".")
		index[name] = i
		all = append(all, name)
	}
	for _, image := range imageColumns {
		if i, ok := index[image+".bytes"]; ok {
			c.bytes = i
			if i, ok := index[image+".path"]; ok {
				c.path = i
			}
			break
		}
		if i, ok := index[image]; ok {
			c.bytes = i
			break
		}
	}
	for _, label := range labelColumns {
		if i, ok := index[label]; ok {
			c.label, c.labelName = i, label
			break
		}
	}
	if c.bytes >= 0 && c.label >= 0 {
		return c, nil
	}
	err := fmt.Errorf("columns %s: want image {bytes, path}, and label for classes", strings.Join(all, ", "))
	lists := false
	for _, name := range all {
		top, inner, _ := strings.Cut(name, ".")
		if strings.HasPrefix(inner, "list.") && (c.bytes < 0 && slices.Contains(imageColumns, top) ||
			slices.Contains(labelColumns, top)) {
			err, lists = fmt.Errorf("%w: column %s holds a list in a row, not one value", err, top), true
		}
	}
	if c.bytes < 0 || lists {
		return c, err
	}
	return c, nil
}

// labelOf returns the label of a row, nil where the table has none.
func (c *pictureColumns) labelOf(v parquet.Value) (*labels.Label, error) {
	var l labels.Label
	var err error
	switch {
	case c.label < 0:
		return nil, nil
	case v.IsNull():
		return nil, fmt.Errorf("%s is null: want a label in each row", c.labelName)
	case v.Kind() == parquet.ByteArray:
		l, err = labels.Parse(string(v.ByteArray()))
	default:
		l, err = labels.Number(v.Int64())
	}
	if err != nil {
		return nil, err
	}
	if n := len(c.classes); n > 0 && l.Class == "" && int(l.Number) >= n {
		return nil, fmt.Errorf("label %d: the file names %s, 0 to %d (%s)", l.Number, names.Plural(n, "class"), n-1,
			names.Few(c.classes))
	}
	return &l, nil
}

// pictureRows are the rows of a row group: bytes, path and label of each.
type pictureRows [3]parquet.ColumnChunkValueReader

// open opens a row group. Other columns than those of c are not read.
func (c *pictureColumns) open(f io.ReaderAt, size int64, file *File, group int) (rows pictureRows, err error) {
	for i, index := range []int{c.bytes, c.path, c.label} {
		if index < 0 {
			continue
		}
		leaf, err := ColumnAt(file, index)
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

// checkColumn says whether a column can be the i-th of pictureRows.
func checkColumn(c *Column, i int) error {
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
func (r *pictureRows) next() (values [3]parquet.Value, err error) {
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

func (r *pictureRows) close() {
	for _, column := range r {
		if column != nil {
			column.Close()
		}
	}
}

// classNames returns the names that the metadata give to the numbers in the column of labels.
func classNames(file *File, c pictureColumns) ([]string, error) {
	text, ok := file.Lookup("huggingface")
	if !ok || c.label < 0 {
		return nil, nil
	}
	if leaf, err := ColumnAt(file, c.label); err != nil || leaf.Kind() == parquet.ByteArray {
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
