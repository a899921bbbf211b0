package gallery

import (
	"context"
	"encoding/csv"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
)

// A folderStore keeps single pictures and the table of what they show.
type folderStore struct {
	ctx context.Context
	dir string
	set Set
}

func openFolderStore(ctx context.Context, dir string, s partialState, set Set) (pictureStore, error) {
	if s.Done == 0 {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	} else if _, err := os.Stat(sheet.NumberedName(dir, s.Done-1)); err != nil {
		return nil, errDamaged
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	disk.SweepFolder(dir)
	return &folderStore{ctx, dir, set}, nil
}

func (f *folderStore) add(first int, p sampling.Pictures) (int64, error) {
	for i, img := range p.Images() {
		path := sheet.NumberedName(f.dir, first+i)
		texts := f.set.Recipe.ofPicture(&f.set, first+i)
		err := disk.Retry(f.ctx, disk.Pauses(), func() error { return sheet.WritePNG(path, img, texts...) })
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (f *folderStore) finish() (string, error) { return f.dir, f.writeLabels() }

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

func (f *folderStore) close() {}
