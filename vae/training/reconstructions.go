package training

import (
	"fmt"
	"image"
	"image/draw"
	"math"
	"strconv"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
)

// ReconstructionsName is the sheet in the output folder that shows pictures beside what the model makes of them.
const ReconstructionsName = "reconstructions.png"

// drawReconstructions writes a sheet of pictures, one of each class where there are classes, beside what the model
// makes of them, with the error of each, and returns their number. Pictures that cannot be read are passed over; where
// none can there is no sheet.
func drawReconstructions(dev torch.Device, model *vae.AutoencoderKL, src catalog.Source, size int,
	path string) (n int, err error) {
	const most, tries = 10, 100
	unsorted, step := classes.None(src.Classes()), 1
	if unsorted { // some of all
		step = max(1, src.Len()/most)
	}
	var pix []uint8
	var labels []sheet.Label
	failed := 0
	for i, shown := 0, -1; i < src.Len() && len(labels) < most && failed < tries; i += step {
		label := src.Sample(i).Label
		if label == shown && !unsorted { // samples stand in order of label
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
		words := sheet.Label{Text: classes.Short(src.Classes()[label]), Else: strconv.Itoa(label)}
		if unsorted {
			words = sheet.Label{}
		}
		labels = append(labels, words)
		shown = label
	}
	if n = len(labels); n == 0 {
		return 0, nil
	}
	made, err := reconstruct(dev, model, pix, n, size)
	if err != nil {
		return 0, err
	}
	pairs, total := make([]image.Image, n), 0.0
	bytes := 3 * size * size
	for i := range pairs {
		original, again := pix[i*bytes:(i+1)*bytes], made[i*bytes:(i+1)*bytes]
		mse := meanSquare(original, again)
		labels[i].Note, total = decibels(mse), total+mse
		if pairs[i], err = pair(original, again, size); err != nil {
			return 0, err
		}
	}
	mean := decibels(total / float64(n))
	title := "Left: picture, right: reconstruction. PSNR " + mean + "; above 30 dB they are hard to tell apart."
	drawn, err := sheet.Draw(pairs, sheet.Options{Labels: labels, Title: title})
	if err != nil {
		return 0, err
	}
	return n, sheet.WritePNG(path, drawn, sheet.Text{Keyword: "Description",
		Text: fmt.Sprintf("%d pictures beside their reconstructions, PSNR %s", n, mean)})
}

// pair is one picture of two, with a thin white line between them.
func pair(left, right []uint8, size int) (image.Image, error) {
	line := max(1, size/64)
	whole := image.NewNRGBA(image.Rect(0, 0, 2*size+line, size))
	draw.Draw(whole, whole.Rect, image.White, image.Point{}, draw.Src)
	for i, pix := range [][]uint8{left, right} {
		img, err := sheet.FromRGB(pix, size, size)
		if err != nil {
			return nil, err
		}
		draw.Draw(whole, img.Rect.Add(image.Pt(i*(size+line), 0)), img, image.Point{}, draw.Src)
	}
	return whole, nil
}

// meanSquare is the mean squared difference, in grey levels of 0 to 255.
func meanSquare(a, b []uint8) float64 {
	sum := 0.0
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		sum += d * d
	}
	return sum / float64(len(a))
}

// decibels is the peak signal-to-noise ratio of a mean squared difference.
func decibels(mse float64) string {
	if mse == 0 {
		return "infinite"
	}
	return fmt.Sprintf("%.1f dB", 10*math.Log10(255*255/mse))
}
