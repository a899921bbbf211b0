package data

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/ditrun/ditrun/data/store"
)

// addMembers takes captions from the archives and tables of the source itself.
func (b *captionBuilder) addMembers(ctx context.Context, src Source, field string) error {
	c, ok := src.(*catalogue)
	if !ok || !c.files[0].keep {
		return errors.New("the pictures lie in files of their own: want WebDataset archives or parquet files with captions in them, or a file of captions")
	}
	byFile := make([][]int, len(c.files)) // samples in the order of their places
	for i, e := range c.entries {
		byFile[e.file] = append(byFile[e.file], i)
	}
	for f := range c.files {
		ids := byFile[f]
		slices.SortFunc(ids, func(i, j int) int { return cmp.Compare(c.entries[i].offset, c.entries[j].offset) })
		if err := b.addContainer(ctx, c, f, ids, field); err != nil {
			return fmt.Errorf("%s: %w", c.files[f].path, err)
		}
	}
	if b.stats.Read == 0 {
		want := "members .txt, or .json with a field caption or text"
		if field != "" {
			want = fmt.Sprintf("members .%s, or .json with a field %q", field, field)
		}
		return fmt.Errorf("no captions beside the pictures: want %s", want)
	}
	return nil
}

func (b *captionBuilder) addContainer(ctx context.Context, c *catalogue, file int, ids []int, field string) error {
	set, err := store.Open(ctx, c.files[file].path) // an archive that was unpacked into the cache is known by the original's path
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
		return b.addColumn(ctx, f, set.Objects[0].Size, ids, field)
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
	return b.addTar(ctx, f, at, field)
}

// captionSample is what the members of one key say.
type captionSample struct {
	pictures        []int
	texts, fromJSON []string
}

// addTar takes captions from the members of a WebDataset archive, wherever those of a sample are in it; at are the
// samples by the offset of their pictures.
func (b *captionBuilder) addTar(ctx context.Context, r io.ReaderAt, at map[int64]int, field string) error {
	section := io.NewSectionReader(r, 0, math.MaxInt64)
	t := tar.NewReader(section)
	byKey := map[string]*captionSample{}
	var all []*captionSample
	of := func(key string) *captionSample {
		s, ok := byKey[key]
		if !ok {
			s = &captionSample{}
			byKey[key] = s
			all = append(all, s)
		}
		return s
	}
	finish := func() error {
		for _, s := range all {
			if len(s.texts) == 0 {
				s.texts = s.fromJSON
			}
			for _, i := range s.pictures {
				for _, text := range s.texts {
					if err := b.add(i, text); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return finish()
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		key := sampleKey(name)
		offset, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if i, ok := at[offset]; ok {
			s := of(key)
			s.pictures = append(s.pictures, i)
			continue
		}
		ext := strings.TrimPrefix(strings.TrimPrefix(name, key), ".")
		wanted := ext == field || field == "" && (ext == "txt" || ext == "text" || ext == "caption")
		if !wanted && ext != "json" {
			continue
		}
		if h.Size > maxCaptionRecord {
			return fmt.Errorf("%s: %d bytes: want at most %d", name, h.Size, maxCaptionRecord)
		}
		text := make([]byte, h.Size)
		if _, err := io.ReadFull(t, text); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if wanted {
			s := of(key)
			s.texts = append(s.texts, string(text))
			continue
		}
		b.countInvalid(text)
		var fields map[string]json.RawMessage
		if json.Unmarshal(text, &fields) != nil {
			continue // not for us, as in listTar
		}
		names := captionColumns
		if field != "" {
			names = []string{field}
		}
		if n, ok := firstField(fields, names); ok && string(fields[n]) != "null" {
			list, err := captionsOf(fields[n])
			if err != nil {
				return fmt.Errorf("%s: field %q: %w", name, n, err)
			}
			s := of(key)
			s.fromJSON = append(s.fromJSON, list...)
		}
	}
}

// addColumn takes captions from a column of a parquet file, one text a row or a list of them; ids are the samples by row.
func (b *captionBuilder) addColumn(ctx context.Context, f io.ReaderAt, size int64, ids []int, field string) (err error) {
	defer func() {
		if r := recover(); r != nil { // the library panics at some damaged files
			err = fmt.Errorf("damaged: %v", r)
		}
	}()
	file, err := openParquet(f, size)
	if err != nil {
		return err
	}
	index, err := findTextColumn(file.Schema(), field)
	if err != nil {
		return err
	}
	leaf, err := columnAt(file, index)
	if err != nil {
		return err
	}
	if leaf.kind() != parquet.ByteArray {
		return fmt.Errorf("column %s is of type %s: want text", leaf.name, leaf.kind())
	}
	if file.NumRows() != int64(len(ids)) {
		return fmt.Errorf("%d rows for %d pictures: the file was changed since it was unpacked", file.NumRows(), len(ids))
	}
	row := -1
	values := make([]parquet.Value, 64)
	for g := range file.groups() {
		err := func() error {
			pages, err := leaf.pages(f, size, file, g)
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
						if err := b.add(ids[row], string(v.ByteArray())); err != nil {
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

// findTextColumn returns the leaf column of captions.
func findTextColumn(schema *parquet.Schema, field string) (int, error) {
	names := captionColumns
	if field != "" {
		names = []string{field}
	}
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
	return 0, fmt.Errorf("columns %s: want a column of text called %s (data:COLUMN names another)", strings.Join(all, ", "), strings.Join(names, ", "))
}
