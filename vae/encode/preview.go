package encode

import (
	"context"
	"errors"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
)

// previewTries is how many neighbours are tried in place of a bad picture.
const previewTries = 16

// Preview returns the crops [n, H, W, 3] of n pictures spread evenly over the source, or of all where there are
// fewer, and their ids. The next good one takes the place of a bad picture; where many in a row are bad there are
// fewer than n.
func Preview(ctx context.Context, src catalog.Source, n int, size picture.Size, by picture.Resampler) (pix []uint8,
	ids []int, err error) {
	n = min(n, src.Len())
	crop, err := picture.NewCropper(size, by)
	if err != nil {
		return nil, nil, err
	}
	for i := range n {
		first, next := i*src.Len()/n, (i+1)*src.Len()/n
		for id := first; id < min(next, first+previewTries); id++ {
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
			img, err := src.Image(id)
			if errors.As(err, new(*catalog.BadPicture)) {
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			out := make([]uint8, 3*size.Height*size.Width)
			if err := crop.Crop(out, img); err != nil {
				return nil, nil, err
			}
			pix, ids = append(pix, out...), append(ids, id)
			break
		}
	}
	return pix, ids, nil
}
