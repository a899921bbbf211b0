package table

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/ditrun/ditrun/internal/names"
)

// Texts calls found with the values of a column of text, one a row or a list of them: the first of the named columns
// that is there. Rows is how many rows the table should have.
func Texts(ctx context.Context, f io.ReaderAt, size int64, columns []string, rows int,
	found func(row int, text []byte) error) (err error) {
	defer recoverDamage(&err)
	file, err := Open(f, size)
	if err != nil {
		return err
	}
	index, err := findTextColumn(file.Schema(), columns)
	if err != nil {
		return err
	}
	leaf, err := ColumnAt(file, index)
	if err != nil {
		return err
	}
	if leaf.Kind() != parquet.ByteArray {
		return fmt.Errorf("column %s is of type %s: want text", leaf.Name, leaf.Kind())
	}
	if file.NumRows() != int64(rows) {
		return fmt.Errorf("%s for %s: the file was changed since it was unpacked",
			names.Plural(int(file.NumRows()), "row"), names.Plural(rows, "picture"))
	}
	t := textReader{row: -1, rows: rows, found: found}
	for g := range file.Groups() {
		pages, err := leaf.Pages(f, size, file, g)
		if err == nil {
			err = t.readGroup(ctx, pages)
		}
		if err != nil {
			return fmt.Errorf("row %d: %w", max(t.row, 0), err)
		}
	}
	return nil
}

// textReader reads the values of a column, of which a row may have several or none.
type textReader struct {
	row, rows int // the row of the last value, -1 before the first, and how many rows there are
	found     func(row int, text []byte) error
	values    [64]parquet.Value
}

// readGroup reads the pages of a row group.
func (t *textReader) readGroup(ctx context.Context, pages *parquet.FilePages) error {
	defer pages.Close()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.readPage(page.Values()); err != nil {
			return err
		}
		parquet.Release(page)
	}
}

func (t *textReader) readPage(r parquet.ValueReader) error {
	for {
		n, err := r.ReadValues(t.values[:])
		for _, v := range t.values[:n] {
			if v.RepetitionLevel() == 0 {
				t.row++
			}
			if v.IsNull() {
				continue
			}
			if t.row < 0 || t.row >= t.rows {
				return fmt.Errorf("damaged: a value for row %d of %d", t.row, t.rows)
			}
			if err := t.found(t.row, v.ByteArray()); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// findTextColumn returns the leaf column of the first of the names that is there.
func findTextColumn(schema *parquet.Schema, names []string) (int, error) {
	var all []string
	for _, p := range schema.Columns() {
		all = append(all, strings.Join(p, "."))
	}
	for _, n := range names {
		for i, p := range schema.Columns() {
			if p[0] == n && (len(p) == 1 || len(p) == 3 && (p[1] == "list" || p[1] == "bag")) {
				return i, nil
			}
		}
	}
	return 0, fmt.Errorf("columns %s: want a column of text called %s (data:COLUMN names another)",
		strings.Join(all, ", "), strings.Join(names, ", "))
}
