package data

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
)

// parquetColumns are the leaf columns of a table of pictures, as Hugging Face's datasets writes it; -1 where there is none.
type parquetColumns struct {
	bytes, path, label int
	labelName          string
}

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
	for _, image := range []string{"image", "img", "picture", "jpg", "png"} {
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
	for _, label := range []string{"label", "labels", "cls", "fine_label"} {
		if i, ok := names[label]; ok {
			c.label, c.labelName = i, label
			break
		}
	}
	if c.bytes < 0 || c.label < 0 {
		return c, fmt.Errorf("columns %s: want image {bytes, path} and label", strings.Join(all, ", "))
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
	file, err := openParquet(f, size)
	if err != nil {
		return err
	}
	c, err := findColumns(file.Schema())
	if err != nil {
		return err
	}
	t := tar.NewWriter(out)
	row, total := 0, int64(0)
	for g := range file.RowGroups() {
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
			if total += n; total > maxUnpacked(size) {
				err = fmt.Errorf("%d bytes unpack to more than %d", size, maxUnpacked(size))
				break
			}
		}
		rows.close()
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("row %d: %w", row, err)
		}
	}
	return t.Close()
}

// tableRows are the rows of a row group: bytes, path and label of each.
type tableRows [3]parquet.ColumnChunkValueReader

// open opens a row group. Other columns than those of c are not read.
func (c *parquetColumns) open(f io.ReaderAt, size int64, file *parquet.File, group int) (rows tableRows, err error) {
	for i, index := range []int{c.bytes, c.path, c.label} {
		if index < 0 {
			continue
		}
		leaf, err := columnAt(file, index)
		if err == nil {
			err = leaf.check(i)
		}
		if err == nil {
			var pages *parquet.FilePages
			if pages, err = leaf.pages(f, size, file, group); err == nil {
				rows[i] = parquet.NewColumnChunkValueReader(pagesOf{file.RowGroups()[group].ColumnChunks()[index], pages})
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

// check says whether a column can be the i-th of tableRows.
func (c *column) check(i int) error {
	kind, label := c.kind(), i == 2
	switch {
	case c.MaxRepetitionLevel > 0:
		return fmt.Errorf("column %s has a list in a row: want one value", c.name)
	case label && kind != parquet.Int32 && kind != parquet.Int64:
		return fmt.Errorf("%s is of type %s: want a whole number", c.name, kind)
	case !label && kind != parquet.ByteArray:
		return fmt.Errorf("%s is of type %s: want bytes", c.name, kind)
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

func writeRow(t *tar.Writer, c *parquetColumns, row int, values [3]parquet.Value) (int64, error) {
	name, label := "", int64(-1)
	var picture []byte
	if v := values[0]; !v.IsNull() {
		picture = v.ByteArray()
	}
	if v := values[1]; !v.IsNull() {
		name = path.Base(string(v.ByteArray()))
	}
	if v := values[2]; !v.IsNull() {
		label = v.Int64()
	}
	if picture == nil {
		return 0, errors.New("no picture")
	}
	if label < 0 || label > maxLabel {
		return 0, fmt.Errorf("%s %d: want a number from 0 to %d (sets without labels cannot be used)", c.labelName, label, maxLabel)
	}
	switch ext := path.Ext(name); {
	case name == "" || name == "." || name == "/":
		name = fmt.Sprintf("%08d", row)
		if f, err := sniff(picture); err == nil {
			name += "." + strings.ToLower(f.name)
		} else {
			name += ".png"
		}
	case !isPicture(name):
		name += ".png" // content decides in the end
	default:
		name = synsetSuffix.ReplaceAllString(strings.TrimSuffix(name, ext), "") + ext
	}
	return int64(len(picture)), writeMember(t, name, int32(label), picture)
}

// parquetClasses returns the class names that Hugging Face's datasets keeps in the metadata, nil if there are none.
func parquetClasses(f io.ReaderAt, size int64) (names []string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	file, err := openParquet(f, size)
	if err != nil {
		return nil, err
	}
	c, err := findColumns(file.Schema())
	if err != nil {
		return nil, err
	}
	text, ok := file.Lookup("huggingface")
	if !ok {
		return nil, nil
	}
	var meta struct {
		Info struct {
			Features map[string]json.RawMessage `json:"features"`
		} `json:"info"`
	}
	if json.Unmarshal([]byte(text), &meta) != nil {
		return nil, nil
	}
	var label struct {
		Names []string `json:"names"`
	}
	if json.Unmarshal(meta.Info.Features[c.labelName], &label) != nil || slices.Contains(label.Names, "") {
		return nil, nil
	}
	return label.Names, nil
}
