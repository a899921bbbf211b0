package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/vae"
)

// A trainInput is what a run is made of.
type trainInput struct {
	device   torch.Device
	source   training.Source
	latents  *latents.Set // nil for pictures
	set      training.Set
	config   training.Config
	vae      *vae.AutoencoderKL // for pictures and previews, else nil
	pictures bool               // that are encoded as they are needed

	catalogue catalog.Source // of pictures
	workers   int            // that decode them

	closers []func()
}

func (t *trainInput) close() {
	for i := len(t.closers) - 1; i >= 0; i-- {
		t.closers[i]()
	}
}

// what says what the samples are.
func (t *trainInput) what() string {
	if t.pictures {
		return "pictures, encoded at every step into latents"
	}
	return "latents"
}

// openTrainInput opens the device, the data and the autoencoder.
func (e *env) openTrainInput(process dist.Env) (*trainInput, error) {
	t := &trainInput{}
	if err := e.fillTrainInput(t, process); err != nil {
		t.close()
		return nil, err
	}
	t.set = t.source.Set()
	t.set.Name = e.flags.String("data")
	return t, nil
}

func (e *env) fillTrainInput(t *trainInput, process dist.Env) (err error) {
	c := e.flags
	path, encoder := c.String("data"), c.String("vae")
	t.pictures = encoder != "" && !exists(filepath.Join(path, latents.ManifestName))
	if t.pictures {
		flag := "results-dir"
		if c.String("run-dir") != "" {
			flag = "run-dir"
		}
		if err := outsideOf(path, flag, c.String(flag)); err != nil {
			return err
		}
	}
	var set *latents.Set
	if !t.pictures {
		if set, err = latents.Open(path); isMissing(err) {
			return withHint(err, "`ditrun encode-latents` makes latents from pictures")
		} else if err != nil {
			return err
		}
		t.latents = set
		t.closers = append(t.closers, func() { set.Close() })
	}
	if t.device, err = e.openDeviceOf(process); err != nil {
		return err
	}
	if t.pictures || c.Int("sample-every") > 0 && process.Rank == 0 {
		if t.vae, err = vae.Open(encoder, t.device); err != nil {
			return err
		}
		t.closers = append(t.closers, t.vae.Close)
	}
	if !t.pictures {
		if t.vae != nil {
			if err := set.CheckVAE(t.vae.WeightsSHA256()); err != nil {
				return withHint(err, "give the --vae that encode-latents was given")
			}
		}
		if t.source, err = training.Captioned(set); err != nil {
			return err
		}
		if c.Bool("data-on-device") {
			resident, err := training.Resident(set, t.device)
			if err != nil {
				return err
			}
			t.closers = append(t.closers, resident.Close)
			t.source = resident
		}
		return nil
	}
	if c.Bool("data-on-device") || c.String("data-order") != stream.ShuffleOrder {
		return usagef("train: --data-on-device and --data-order are for latents, %s holds pictures", path)
	}
	src, err := e.openPictures(path, c.String("labels"), e.orientation())
	if err != nil {
		return err
	}
	t.closers = append(t.closers, func() { src.Close() })
	size := e.imageSize(picture.Square(t.vae.Config().SampleSize))
	t.catalogue = src
	t.workers = cmp.Or(c.Int("num-workers"), max(1, (runtime.GOMAXPROCS(0)-1)/max(1, process.LocalWorld)))
	if t.source, err = training.Pictures(src, t.vae, size, t.workers); err != nil {
		return usageError{err}
	}
	if process.Rank == 0 {
		e.warn("pictures are encoded again at every step: %s", e.pictureCost(t, size))
	}
	return nil
}

// pictureCost says what encoding adds to a step.
func (e *env) pictureCost(t *trainInput, size picture.Size) string {
	return fmt.Sprintf("encode-latents does it once (%s-pixel pictures, the log's TFLOP/s and MFU count the "+
		"model alone)", size)
}
