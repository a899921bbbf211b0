package training

import (
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
)

// ReconstructionsName is the sheet in the output folder that shows pictures above what the model makes of them.
const ReconstructionsName = "reconstructions.png"

// drawReconstructions writes a sheet of pictures, one of each class, above what the model makes of them, and returns
// their number. Pictures that cannot be read are passed over; where none can there is no sheet.
func drawReconstructions(dev torch.Device, model *vae.AutoencoderKL, src catalog.Source, size int,
	path string) (n int, err error) {
	const most, tries = 10, 100
	var pix []uint8
	var labels []string
	failed := 0
	for i, shown := 0, -1; i < src.Len() && len(labels) < most && failed < tries; i++ {
		label := src.Sample(i).Label
		if label == shown { // samples stand in order of label
			continue
		}
		img, err := src.Image(i)
		if err != nil {
			failed++
			continue
		}
		if img, err = picture.CenterCrop(img, picture.Square(size)); err != nil {
			return 0, err
		}
		pix = append(pix, img.Pix...)
		labels, shown = append(labels, src.Classes()[label]), label
	}
	if n = len(labels); n == 0 {
		return 0, nil
	}
	err = torch.Run(dev, func(s *torch.Scope) error {
		s = s.NoGrad()
		mean, _ := model.Encode(s, vae.Pixels(s, pix, n, size, size))
		made, err := vae.RGB(s, model.Decode(s, mean))
		pix = append(pix, made...)
		return err
	})
	if err != nil {
		return 0, err
	}
	images, err := sheet.Batch(pix, 2*n, size, size)
	if err != nil {
		return 0, err
	}
	drawn, err := sheet.Draw(images, append(labels, labels...), n, "")
	if err != nil {
		return 0, err
	}
	return n, sheet.WritePNG(path, drawn)
}
