package encode_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/encode"
)

// Pictures become the latents that a model is trained on. The source here is Checkers of this package's tests, which
// draws its pictures; catalog.Open("pictures") opens a folder or an archive of yours.
func Example() {
	dir, err := os.MkdirTemp("", "latents")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	model, err := vae.Open(filepath.Join("..", "testdata", "tiny"), torch.CPU) // such as sd-vae-ft-ema
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()

	_, err = encode.Run(context.Background(), encode.Options{
		Source: Checkers{6}, VAE: model, VAEName: "tiny", OutDir: dir, ImageSize: picture.Square(16),
	})
	if err != nil {
		log.Fatal(err)
	}
	set, err := latents.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer set.Close()
	m := set.Manifest()
	fmt.Println(set.Len(), "latents of", m.Channels, "x", m.Height, "x", m.Width, "in classes", set.Classes())
	// Output: 6 latents of 4 x 8 x 8 in classes [fine coarse]
}
