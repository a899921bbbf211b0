package data

import (
	"archive/tar"
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
	file, err := parquet.OpenFile(f, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return err
	}
	c, err := findColumns(file.Schema())
	if err != nil {
		return err
	}
	t := tar.NewWriter(out)
	row, total := 0, int64(0)
	for _, g := range file.RowGroups() {
		rows := g.Rows()
		err := func() error {
			defer rows.Close()
			buf := make([]parquet.Row, 16)
			for {
				if err := ctx.Err(); err != nil {
					return err
				}
				n, err := rows.ReadRows(buf)
				for _, r := range buf[:n] {
					size, err := writeRow(t, &c, row, r)
					if err != nil {
						return fmt.Errorf("row %d: %w", row, err)
					}
					row++
					total += size
				}
				if total > maxUnpacked(size) {
					return fmt.Errorf("%d bytes unpack to more than %d", size, maxUnpacked(size))
				}
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
			}
		}()
		if err != nil {
			return err
		}
	}
	return t.Close()
}

func writeRow(t *tar.Writer, c *parquetColumns, row int, values parquet.Row) (int64, error) {
	name, label := "", int64(-1)
	var picture []byte
	for _, v := range values {
		if v.IsNull() {
			continue
		}
		switch v.Column() {
		case c.bytes:
			picture = v.ByteArray()
		case c.path:
			name = path.Base(string(v.ByteArray()))
		case c.label:
			switch v.Kind() {
			case parquet.Int32, parquet.Int64:
				label = v.Int64()
			default:
				return 0, fmt.Errorf("%s is of type %s: want a whole number", c.labelName, v.Kind())
			}
		}
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
	file, err := parquet.OpenFile(f, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
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
