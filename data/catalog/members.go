package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/ditrun/ditrun/data/archive"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/data/table"
)

// MemberSource is what a [Source] may be beside: one whose pictures have something beside them, such as captions.
type MemberSource interface {
	Source
	// Members calls found with what lies beside pictures and is wanted; an error of found ends it. [ErrNoMembers]
	// says that there can be nothing.
	Members(ctx context.Context, want WantedMembers, found func(Member) error) error
}

// WantedMembers says what of the members beside pictures is of use.
type WantedMembers struct {
	// Kind says whether members of archives whose names end in kind, such as txt, are wanted, and MaxBytes how
	// large they may be.
	Kind     func(kind string) bool
	MaxBytes int64
	// Columns are names of columns of tables, of which the first that is there is wanted.
	Columns []string
}

// A Member is what lies beside pictures: the member of an archive that shares their name, or the value of a table.
type Member struct {
	Samples []int  // whose it is
	Kind    string // what its name ends in, such as txt; "" for the value of a table
	Name    string // in the archive
	Content []byte // valid until found returns
}

// ErrNoMembers is the error of a source whose pictures are files of their own.
var ErrNoMembers = errors.New("the pictures lie in files of their own: want WebDataset archives or parquet files " +
	"with captions in them, or a file of captions")

// Members is that of [MemberSource].
func (c *catalogue) Members(ctx context.Context, want WantedMembers, found func(Member) error) error {
	if !c.files[0].keep {
		return ErrNoMembers
	}
	byFile := make([][]int, len(c.files)) // samples in the order of their places
	for i, e := range c.entries {
		byFile[e.file] = append(byFile[e.file], i)
	}
	for f := range c.files {
		ids := byFile[f]
		slices.SortFunc(ids, func(i, j int) int { return cmp.Compare(c.entries[i].offset, c.entries[j].offset) })
		if err := c.membersOf(ctx, f, ids, want, found); err != nil {
			return fmt.Errorf("%s: %w", c.files[f].path, err)
		}
	}
	return nil
}

func (c *catalogue) membersOf(ctx context.Context, file int, ids []int, want WantedMembers,
	found func(Member) error) error {
	// an archive that was unpacked into the cache is known by the original's path
	set, err := store.Open(ctx, c.files[file].path)
	if err != nil {
		return err
	}
	kind, err := kindOf(set, 0)
	if err != nil {
		return err
	}
	if kind == "parquet" {
		f, err := set.File(0)
		if err != nil {
			return err
		}
		defer f.Close()
		return columnMembers(ctx, f, set.Objects[0].Size, ids, want.Columns, found)
	}
	var f store.File
	if set.Remote && kind == "tar" { // its headers are asked for in blocks, as in openPacked
		if f, err = set.Cached(remoteBlock, remoteCache).File(0); err != nil {
			return err
		}
		defer f.Close()
	} else if f, _, err = c.files[file].reader(); err != nil { // stays open
		return err
	}
	at := make(map[int64]int, len(ids))
	for _, i := range ids {
		at[c.entries[i].offset] = i
	}
	return archive.Members(ctx, f, at, want.Kind, want.MaxBytes, func(m archive.Member) error {
		return found(Member{Samples: m.Pictures, Kind: m.Kind, Name: m.Name, Content: m.Content})
	})
}

// columnMembers yields the values of a column of text of a parquet file, one a row or a list of them; ids are the
// samples by row.
func columnMembers(ctx context.Context, f io.ReaderAt, size int64, ids []int, names []string,
	found func(Member) error) (err error) {
	defer func() {
		if r := recover(); r != nil { // the library panics at some damaged files
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	file, err := table.Open(f, size)
	if err != nil {
		return err
	}
	index, err := findTextColumn(file.Schema(), names)
	if err != nil {
		return err
	}
	leaf, err := table.ColumnAt(file, index)
	if err != nil {
		return err
	}
	if leaf.Kind() != parquet.ByteArray {
		return fmt.Errorf("column %s is of type %s: want text", leaf.Name, leaf.Kind())
	}
	if file.NumRows() != int64(len(ids)) {
		return fmt.Errorf("%d rows for %d pictures: the file was changed since it was unpacked", file.NumRows(),
			len(ids))
	}
	row := -1
	values := make([]parquet.Value, 64)
	for g := range file.Groups() {
		err := func() error {
			pages, err := leaf.Pages(f, size, file, g)
			if err != nil {
				return err
			}
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
				for r := page.Values(); ; {
					n, err := r.ReadValues(values)
					for _, v := range values[:n] {
						if v.RepetitionLevel() == 0 {
							row++
						}
						if v.IsNull() {
							continue
						}
						if row < 0 || row >= len(ids) {
							return fmt.Errorf("damaged: a value for row %d of %d", row, len(ids))
						}
						if err := found(Member{Samples: ids[row : row+1], Content: v.ByteArray()}); err != nil {
							return err
						}
					}
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						return err
					}
				}
				parquet.Release(page)
			}
		}()
		if err != nil {
			return fmt.Errorf("row %d: %w", max(row, 0), err)
		}
	}
	return nil
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
