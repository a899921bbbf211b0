package training

import (
	"context"
	"fmt"
	"image"
	"image/draw"
	"path/filepath"
	"strconv"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/vae"
)

// ReconstructionsName is the sheet in the output folder that shows pictures beside what the model makes of them.
const ReconstructionsName = "reconstructions.png"

// drawReconstructions writes the sheet of pictures, with the PSNR of each under the quality of all, and returns their
// number. Pictures that cannot be read are passed over; where none can there is no sheet.
func (o *Options) drawReconstructions(ctx context.Context, model *vae.AutoencoderKL, q Quality) (int, error) {
	side := o.Config.ImageSize
	pictures, labels, err := o.picturesToShow(ctx, mostShown(side))
	if err != nil || len(pictures) == 0 {
		return 0, err
	}
	pairs := make([]image.Image, len(pictures))
	err = inPrecision(model, o.Precision, func(r reconstructor) error {
		for i, original := range pictures {
			if err := ctx.Err(); err != nil {
				return err
			}
			again, err := r.reconstruct(original, 1, side)
			if err != nil {
				return err
			}
			_, psnr := difference(original, again)
			labels[i].Note = fmt.Sprintf("%.1f dB", psnr)
			if pairs[i], err = pair(original, again, side); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	title := "Left: picture, right: reconstruction."
	if q.Pictures > 0 {
		title += fmt.Sprintf(" Mean PSNR %.1f dB, %s", q.PSNR, q.Verdict())
	}
	drawn, err := sheet.Draw(pairs, sheet.Options{Labels: labels, Title: title})
	if err != nil {
		return 0, err
	}
	text := fmt.Sprintf("%s, each beside its reconstruction, PSNR %.1f dB", names.Plural(len(pairs), "picture"),
		q.PSNR)
	if err := sheet.WritePNG(filepath.Join(o.OutDir, ReconstructionsName), drawn,
		sheet.Text{Keyword: "Description", Text: text}); err != nil {
		return 0, err
	}
	return len(pairs), nil
}

// mostShown is how many pictures of a side are shown: ten, or as many as a sheet holds beside their reconstructions.
func mostShown(side int) int {
	columns, rows := sheet.Most(pairSize(side))
	return min(10, columns*rows)
}

// picturesToShow are the first readable pictures of classes, at most so many, and their labels; where there are no
// classes, pictures from all over the source.
func (o *Options) picturesToShow(ctx context.Context, most int) (pictures [][]uint8, labels []sheet.Label, err error) {
	const tries = 100
	src := o.Source
	unsorted, step := classes.None(src.Classes()), 1
	if unsorted {
		step = max(1, src.Len()/most)
	}
	failed := 0
	for i, shown := 0, -1; i < src.Len() && len(labels) < most && failed < tries; i += step {
		label := src.Sample(i).Label
		if label == shown && !unsorted { // samples stand in order of label
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		img, err := src.Image(i)
		if err != nil {
			failed++
			continue
		}
		if img, err = picture.CenterCrop(img, picture.Square(o.Config.ImageSize)); err != nil {
			return nil, nil, err
		}
		words := sheet.Label{Text: classes.Short(src.Classes()[label]), Else: strconv.Itoa(label)}
		if unsorted {
			words = sheet.Label{}
		}
		pictures, labels, shown = append(pictures, img.Pix), append(labels, words), label
	}
	return pictures, labels, nil
}

// pair is one picture of two, with a thin white line between them.
func pair(left, right []uint8, size int) (image.Image, error) {
	whole := image.NewNRGBA(image.Rectangle{Max: pairSize(size)})
	draw.Draw(whole, whole.Rect, image.White, image.Point{}, draw.Src)
	for i, pix := range [][]uint8{left, right} {
		img, err := sheet.FromRGB(pix, size, size)
		if err != nil {
			return nil, err
		}
		draw.Draw(whole, img.Rect.Add(image.Pt(i*(whole.Rect.Dx()-size), 0)), img, image.Point{}, draw.Src)
	}
	return whole, nil
}

// pairSize is that of pictures of a side beside each other, and of the line between them.
func pairSize(side int) image.Point { return image.Pt(2*side+max(1, side/64), side) }
