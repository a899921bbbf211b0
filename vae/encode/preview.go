package encode

import (
	"context"
	"errors"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// PreviewName is the sheet of crops in the folder of the latents.
const PreviewName = "preview.png"

// WritePreview draws n crops from all over the source of o, each over the name of its class, into the sheet
// [PreviewName] of OutDir, and returns its path. More than a sheet holds are a [sheet.TooManyError]. Where none of
// those that were tried can be decoded it draws no sheet and returns "". A folder with a sheet is one that [Run]
// takes.
func WritePreview(ctx context.Context, o Options, n int) (path string, err error) {
	o = o.WithDefaults()
	size := image.Pt(o.ImageSize.Width, o.ImageSize.Height)
	n = min(n, o.Source.Len())
	if err := checkPreview(o.Source, n, size); err != nil {
		return "", err
	}
	pix, ids, err := Preview(ctx, o.Source, n, o.ImageSize, o.Resampler)
	if err != nil || len(ids) == 0 {
		return "", err
	}
	images, err := sheet.Batch(pix, len(ids), o.ImageSize.Width, o.ImageSize.Height)
	if err != nil {
		return "", err
	}
	title := fmt.Sprintf("%d of %s, cropped to %s", len(ids), names.Plural(o.Source.Len(), "picture"), o.ImageSize)
	drawn, err := sheet.Draw(images, sheet.Options{Labels: previewLabels(o.Source, ids), Title: title})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(o.OutDir, 0o777); err != nil {
		return "", err
	}
	path = filepath.Join(o.OutDir, PreviewName)
	disk.Sweep(path)
	return path, sheet.WritePNG(path, drawn, sheet.Text{Keyword: "Description", Text: title})
}

// checkPreview returns the error that a sheet of n crops of a size would be, before any is decoded.
func checkPreview(src catalog.Source, n int, size image.Point) error {
	const beyondSheets = 10_000 // more than any sheet holds
	ids := make([]int, min(n, beyondSheets))
	for i := range ids {
		ids[i] = i * src.Len() / n
	}
	err := sheet.Check(size, len(ids), sheet.Options{Labels: previewLabels(src, ids), Title: PreviewName})
	if tooMany := (*sheet.TooManyError)(nil); errors.As(err, &tooMany) {
		tooMany.N = n
	}
	return err
}

// previewLabels are the names of the classes of pictures.
func previewLabels(src catalog.Source, ids []int) []sheet.Label {
	labels := make([]sheet.Label, len(ids))
	for i, id := range ids {
		label := src.Sample(id).Label
		labels[i] = sheet.Label{Text: classes.Short(src.Classes()[label]), Else: strconv.Itoa(label)}
	}
	return labels
}

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
