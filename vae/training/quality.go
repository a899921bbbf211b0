package training

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// Quality says how far reconstructions are from the pictures. A DiT cannot draw better than they are.
type Quality struct {
	Pictures  int     // how many were compared, 0 for none
	MeanError float64 // the mean difference of a pixel's channel, in gray levels of 0 to 255
	PSNR      float64 // peak signal-to-noise ratio in dB, the mean over the pictures
}

// Below these values of PSNR reconstructions are too soft, or soft. Stable Diffusion's autoencoders reach 23.4 to 24.5
// dB on COCO's photos at 256 pixels, and 26 to 27 dB on LAION's (model card of stabilityai/sd-vae-ft-ema), with a
// perceptual loss that keeps them sharp. train-vae has none, so at the same PSNR its pictures are blurred. The one of
// make demo has 27.5 dB. Seven photos of scikit-image that were shrunk and enlarged again have these, to compare with:
//
//	side     to a half   to a quarter   to an eighth
//	 64       26.1 dB      21.1 dB        18.2 dB
//	128       28.0 dB      23.4 dB        20.0 dB
//	256       29.8 dB      25.2 dB        22.1 dB
const (
	tooSoftPSNR = 22
	softPSNR    = 26
)

// TooSoft says whether a DiT should not be trained on such an autoencoder.
func (q Quality) TooSoft() bool { return q.Pictures > 0 && q.PSNR < tooSoftPSNR }

// Verdict says what the figures mean.
func (q Quality) Verdict() string {
	switch {
	case q.Pictures == 0:
		return "not measured"
	case q.TooSoft():
		return "too soft for training"
	case q.PSNR < softPSNR:
		return "soft: fine detail is lost, and a DiT cannot draw it"
	}
	return "good"
}

func (q Quality) String() string {
	if q.Pictures == 0 {
		return q.Verdict()
	}
	return fmt.Sprintf("off by %.1f of 255 levels on average, PSNR %.1f dB", q.MeanError, q.PSNR)
}

// maxCompared is how many pictures are compared with their reconstructions: the mean over them is then known to about
// half a decibel, as PSNR varies by some 4 dB from photo to photo.
const maxCompared = 64

// MeasureQuality compares pictures of src, spread evenly over it, with what the model makes of the means of their
// posteriors in a precision ("": see [nn.Precision.On]), and reports how many it took, from none to all. Pictures that
// cannot be decoded are passed over.
func MeasureQuality(ctx context.Context, model *vae.AutoencoderKL, precision nn.Precision, src catalog.Source,
	side, batch int, report func(done, total int)) (q Quality, err error) {
	err = inPrecision(model, precision, func(r reconstructor) error {
		q, err = r.quality(ctx, src, side, batch, report)
		return err
	})
	return q, err
}

func (r reconstructor) quality(ctx context.Context, src catalog.Source, side, batch int,
	report func(done, total int)) (Quality, error) {
	var q Quality
	var pix []uint8
	n, sumError, sumPSNR := 0, 0.0, 0.0
	compare := func() error {
		made, err := r.reconstruct(pix, n, side)
		if err != nil {
			return err
		}
		for len(pix) > 0 {
			size := 3 * side * side
			e, psnr := difference(pix[:size], made[:size])
			sumError, sumPSNR = sumError+e, sumPSNR+psnr
			pix, made = pix[size:], made[size:]
		}
		q.Pictures, n = q.Pictures+n, 0
		return nil
	}
	count := min(src.Len(), maxCompared)
	report(0, count)
	for k := range count {
		if err := ctx.Err(); err != nil {
			return q, err
		}
		img, err := src.Image(k * src.Len() / count)
		switch {
		case errors.As(err, new(*catalog.BadPicture)):
			continue
		case err != nil:
			return q, err
		}
		if img, err = picture.CenterCrop(img, picture.Square(side)); err != nil {
			return q, err
		}
		if pix, n = append(pix, img.Pix...), n+1; n == batch {
			if err := compare(); err != nil {
				return q, err
			}
			report(k, count)
		}
	}
	if n > 0 {
		if err := compare(); err != nil {
			return q, err
		}
	}
	report(count, count)
	if q.Pictures > 0 {
		q.MeanError, q.PSNR = sumError/float64(q.Pictures), sumPSNR/float64(q.Pictures)
	}
	return q, nil
}

// A reconstructor is a model in a precision, in a scope.
type reconstructor struct {
	s     *torch.Scope
	model *vae.AutoencoderKL
}

// inPrecision calls f with the model in a precision, for which its weights are cast once.
func inPrecision(model *vae.AutoencoderKL, precision nn.Precision, f func(r reconstructor) error) error {
	precision = precision.On(model.Device())
	if err := precision.Validate(); err != nil {
		return err
	}
	return torch.Run(model.Device(), func(s *torch.Scope) error {
		s = precision.Scope(s.NoGrad())
		return f(reconstructor{s, model.As(s, precision.DType())})
	})
}

// reconstruct returns what the model makes of n pictures [n, side, side, 3].
func (r reconstructor) reconstruct(pix []uint8, n, side int) (made []uint8, err error) {
	err = r.s.Try(func(s *torch.Scope) (err error) {
		mean, _ := r.model.Encode(s, vae.Pixels(s, pix, n, side, side))
		made, err = vae.RGB(s, r.model.Decode(s, mean))
		return err
	})
	return made, err
}

// MaxPSNR is the PSNR given for equal pictures, which have none: that of an error of a tenth of a level.
const MaxPSNR = 68

// difference returns the mean difference of the levels of two pictures, and their PSNR.
func difference(a, b []uint8) (mean, psnr float64) {
	sum, squares := 0, 0
	for i := range a {
		d := int(a[i]) - int(b[i])
		sum, squares = sum+max(d, -d), squares+d*d
	}
	mse := float64(squares) / float64(len(a))
	return float64(sum) / float64(len(a)), min(MaxPSNR, 10*math.Log10(255*255/mse))
}
