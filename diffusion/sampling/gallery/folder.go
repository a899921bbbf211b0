package gallery

import (
	"context"
	"encoding/csv"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
)

// A folderStore keeps single pictures and the table of what they show. A picture has its name from the first, so that
// there is nothing to join.
type folderStore struct {
	ctx context.Context
	dir string
	set Set
}

// begin removes pictures that are cut short, and counts only those before the first that is missing.
func (f *folderStore) begin(s *partialState) error {
	if err := os.MkdirAll(f.dir, 0o777); err != nil {
		return err
	}
	disk.SweepFolder(f.dir)
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	whole := map[string]bool{}
	for _, e := range entries {
		path := filepath.Join(f.dir, e.Name())
		if whole[path] = sheet.IsWhole(path); !whole[path] && filepath.Ext(path) == ".png" {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	for i := range s.Done {
		if !whole[sheet.NumberedName(f.dir, i)] {
			s.Done = f.set.next(i).lo
			break
		}
	}
	return nil
}

func (f *folderStore) has(b span) bool {
	for i := b.hi - 1; i >= b.lo; i-- { // the last is written last
		if _, err := os.Lstat(sheet.NumberedName(f.dir, i)); err != nil {
			return false
		}
	}
	return true
}

func (f *folderStore) put(b span, p sampling.Pictures) error {
	for i, img := range p.Images() {
		path := sheet.NumberedName(f.dir, b.lo+i)
		texts := f.set.Recipe.ofPicture(&f.set, b.lo+i)
		err := disk.Retry(f.ctx, disk.Pauses(), func() error { return sheet.WritePNG(path, img, texts...) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *folderStore) join(_ *partialState, b span, p *sampling.Pictures) error {
	if p == nil {
		return nil
	}
	return f.put(b, *p)
}

func (f *folderStore) joined(span) {}

func (f *folderStore) finish(*partialState) (string, error) { return f.dir, f.writeLabels() }

// writeLabels writes labels.csv, which says what each picture is to show.
func (f *folderStore) writeLabels() error {
	return disk.WriteFile(filepath.Join(f.dir, "labels.csv"), func(w io.Writer) error {
		table := csv.NewWriter(w)
		head := []string{"file"}
		if f.set.Labels != nil {
			head = append(head, "label", "class")
		}
		if f.set.Prompts != nil {
			head = append(head, "prompt")
		}
		table.Write(head)
		for i := range f.set.Count {
			row := []string{filepath.Base(sheet.NumberedName("", i))}
			if f.set.Labels != nil {
				label := f.set.Labels[i]
				row = append(row, strconv.Itoa(label), f.set.className(label))
			}
			if f.set.Prompts != nil {
				row = append(row, f.set.Prompts[i])
			}
			table.Write(row)
		}
		table.Flush()
		return table.Error()
	})
}
