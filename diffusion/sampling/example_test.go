package sampling_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
)

// Pictures of two classes. The models of this example are tiny and untrained; yours would be "results/000-DiT-XL-2", or
// another file of weights, and "sd-vae-ft-ema".
func Example() {
	dir, err := tinyModels()
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	p, err := sampling.Open(torch.CPU, filepath.Join(dir, "model.safetensors"),
		sampling.Options{VAE: filepath.Join(dir, "vae")})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	pictures, err := p.Sample(context.Background(), sampling.Request{Labels: []int{0, 2}, CFGScale: 4, Steps: "10"})
	if err != nil {
		log.Fatal(err)
	}
	for i, img := range pictures.Images() { // each an image.Image
		path := filepath.Join(dir, fmt.Sprintf("%d.png", i))
		if err := sheet.WritePNG(path, img); err != nil {
			log.Fatal(err)
		}
		fmt.Println(filepath.Base(path), img.Bounds().Max)
	}
	// Output:
	// 0.png (16,16)
	// 1.png (16,16)
}

// Many pictures, two at a time: memory does not grow with their number.
func ExamplePipeline_Batches() {
	dir, err := tinyModels()
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	p, err := sampling.Open(torch.CPU, filepath.Join(dir, "model.safetensors"),
		sampling.Options{VAE: filepath.Join(dir, "vae")})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	r := sampling.Request{Labels: sampling.RandomLabels(3, 5, 1), BatchSize: 2, Steps: "5", Seed: 7}
	for pictures, err := range p.Batches(context.Background(), r) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(pictures.Len(), "pictures of", pictures.Height, "x", pictures.Width)
	}
	// Output:
	// 2 pictures of 16 x 16
	// 2 pictures of 16 x 16
	// 1 pictures of 16 x 16
}

// tinyModels makes a folder with a model of three classes, model.safetensors, and its autoencoder, vae.
func tinyModels() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "models"); err != nil {
		return "", err
	}
	small, err := vae.SmallConfig(16, 4, 2) // 16 pixels a side, latents of 4 channels and half the side
	if err != nil {
		return "", err
	}
	config, err := dit.Named("DiT-24x2x2/2")
	if err != nil {
		return "", err
	}
	config.SetInput(8, 8)
	config.SetCondition(dit.OnClass, 3, 0, 0)
	gen, err := torch.NewGenerator(torch.CPU, 1)
	if err != nil {
		return "", err
	}
	var v *vae.AutoencoderKL
	var m *dit.DiT
	err = torch.Run(torch.CPU, func(s *torch.Scope) (err error) {
		if v, err = vae.New(s, small); err != nil {
			return err
		}
		v.Init(s, gen)
		if m, err = dit.New(s, config); err != nil {
			return err
		}
		m.Init(s, gen)
		return nil
	})
	if err != nil {
		return "", err
	}
	defer v.Close()
	defer m.Close()
	if err := v.Save(filepath.Join(dir, "vae")); err != nil {
		return "", err
	}
	info := dit.Info{ScalingFactor: v.Config().ScalingFactor, VAE: v.WeightsSHA256(), ImageSize: 16}
	return dir, m.Save(filepath.Join(dir, "model.safetensors"), info)
}
