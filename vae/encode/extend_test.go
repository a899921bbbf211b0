package encode_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/torch/torchtest"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/encode"
)

// Checkers is a source that draws its pictures: fields of one of two sizes.
type Checkers struct{ n int }

func (c Checkers) Len() int          { return c.n }
func (c Checkers) Classes() []string { return []string{"fine", "coarse"} }
func (c Checkers) Order() string     { return "label, number" }
func (c Checkers) Hash() string      { return fmt.Sprintf("checkers 1, %d", c.n) }
func (c Checkers) Notes() []string   { return nil }
func (c Checkers) Close() error      { return nil }

// Samples stand in the order of their labels.
func (c Checkers) Sample(i int) catalog.Sample {
	return catalog.Sample{Name: fmt.Sprint(i), Label: 2 * i / c.n}
}

func (c Checkers) Image(i int) (*picture.Image, error) {
	img := picture.NewImage(20, 20)
	field := 2 + 4*c.Sample(i).Label
	for y := range img.H {
		for x := range img.W {
			if (x/field+y/field)%2 == 1 {
				img.Pix[3*(y*img.W+x)+i%3] = 255
			}
		}
	}
	return img, nil
}

// A source of another package is encoded as any other.
func TestSourceOfAnotherPackage(t *testing.T) {
	model, err := vae.Open(filepath.Join("..", "testdata", "tiny"), torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	out := filepath.Join(t.TempDir(), "latents")
	_, err = encode.Run(t.Context(), encode.Options{
		Source: Checkers{6}, VAE: model, VAEName: "tiny", OutDir: out, ImageSize: picture.Square(16),
	})
	if err != nil {
		t.Fatal(err)
	}
	latents, err := latents.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer latents.Close()
	if latents.Len() != 6 || latents.Label(2) != 0 || latents.Label(3) != 1 || latents.Classes()[1] != "coarse" {
		t.Errorf("%d latents, labels %v, classes %v", latents.Len(), latents.LabelsByID(), latents.Classes())
	}
	records := [2][]float32{make([]float32, latents.RecordLen()), make([]float32, latents.RecordLen())}
	for k, i := range []int{0, 3} { // of one colour, with fields of two sizes
		if err := latents.Read(i, false, records[k]); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(records[0]) == fmt.Sprint(records[1]) {
		t.Error("two pictures have one latent")
	}
}
