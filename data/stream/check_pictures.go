package stream

import (
	"context"
	"errors"

	"github.com/ditrun/ditrun/data/catalog"
)

// A PictureCheck is what [CheckPictures] found.
type PictureCheck struct {
	Bad      []catalog.Bad // by id
	Clipped  int           // pictures with Image.Clipped
	Oriented int           // pictures with Image.Oriented
}

// IDs are those of the bad pictures.
func (c PictureCheck) IDs() []int {
	ids := make([]int, len(c.Bad))
	for i, b := range c.Bad {
		ids[i] = b.ID
	}
	return ids
}

// checkedAtOnce is how many pictures a worker decodes before it asks for more.
const checkedAtOnce = 16

// CheckPictures decodes samples lo to hi-1 of src with a number of workers, 0 meaning up to 4, and keeps none of them.
// onProgress, which may be nil, is told how many are done. What cannot be read is an error, as it is elsewhere.
func CheckPictures(ctx context.Context, src catalog.Source, lo, hi, workers int,
	onProgress func(done int)) (PictureCheck,
	error) {
	tasks := func(yield func(task) bool) {
		for at := lo; at < hi; at += checkedAtOnce {
			var items []int
			for i := at; i < min(at+checkedAtOnce, hi); i++ {
				items = append(items, i)
			}
			if !yield(task{items: items}) {
				return
			}
		}
	}
	newWorker := func(ctx context.Context) func(task, *PictureCheck) error {
		pictures := newReader(src)
		return func(t task, found *PictureCheck) error {
			*found = PictureCheck{}
			pictures.clipped, pictures.oriented = 0, 0
			pictures.prepare(ctx, t.items)
			for k, i := range t.items {
				if err := ctx.Err(); err != nil {
					return err
				}
				_, done, err := pictures.image(ctx, k, i)
				var bad *catalog.BadPicture
				switch {
				case errors.As(err, &bad):
					found.Bad = append(found.Bad, catalog.Bad{ID: i, Err: bad})
				case err != nil:
					return err
				default:
					done()
				}
			}
			found.Clipped, found.Oriented = pictures.clipped, pictures.oriented
			return nil
		}
	}
	var all PictureCheck
	done := 0
	buffer := func() *PictureCheck { return new(PictureCheck) }
	for r, err := range prefetch(ctx, numWorkers(workers), tasks, buffer, newWorker) {
		if err != nil {
			return all, err
		}
		all.Bad = append(all.Bad, r.batch.Bad...)
		all.Clipped += r.batch.Clipped
		all.Oriented += r.batch.Oriented
		if done = min(done+checkedAtOnce, hi-lo); onProgress != nil {
			onProgress(done)
		}
	}
	return all, nil
}
