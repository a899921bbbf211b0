package sampling

import (
	"context"
	"image"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
)

// decodeBatch bounds the memory of decoding: activations of the autoencoder are much larger than the
// pictures.
const decodeBatch = 16

// Pictures are 8-bit RGB of one size.
type Pictures struct {
	Pix           []uint8 // [n, Height, Width, 3]
	Height, Width int
}

// Len is the number of pictures.
func (p Pictures) Len() int {
	if p.Height < 1 || p.Width < 1 {
		return 0
	}
	return len(p.Pix) / (3 * p.Height * p.Width)
}

// Images returns the pictures one by one, in memory of their own: [sheet.WritePNG] writes one to a file.
func (p Pictures) Images() []image.Image {
	images := make([]image.Image, p.Len())
	size := 3 * p.Height * p.Width
	for i := range images {
		images[i], _ = sheet.FromRGB(p.Pix[i*size:(i+1)*size], p.Width, p.Height) // fails for another size alone
	}
	return images
}

// Decode turns scaled latents [n, C, I, J] into n pictures, rounded as [vae.RGB] does. It computes in the type of v.
func Decode(ctx context.Context, s *torch.Scope, v *vae.AutoencoderKL, latents *torch.Tensor,
	scalingFactor float64) (p Pictures, err error) {
	s = s.NoGrad()
	for lo := 0; lo < latents.Dim(0); lo += decodeBatch {
		if ctx.Err() != nil {
			return Pictures{}, context.Cause(ctx)
		}
		err := s.Try(func(s *torch.Scope) error {
			z := s.Narrow(latents, 0, lo, min(decodeBatch, latents.Dim(0)-lo))
			x := v.Decode(s, s.MulScalar(z, 1/scalingFactor)) // [n, 3, height, width]
			p.Height, p.Width = x.Dim(2), x.Dim(3)
			rgb, err := vae.RGB(s, x)
			p.Pix = append(p.Pix, rgb...)
			return err
		})
		if err != nil {
			return Pictures{}, err
		}
	}
	return p, nil
}
