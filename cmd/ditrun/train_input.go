package main

import (
	"cmp"
	"path/filepath"
	"runtime"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/vae"
)

// A trainInput is what a run is made of.
type trainInput struct {
	dev      torch.Device
	source   samples.Source
	latents  *latents.Set // nil for pictures
	set      samples.Set
	config   *training.Config
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

// samples says how many samples there are, and what they are.
func (t *trainInput) samples() string {
	if t.pictures {
		return plural(t.set.Samples, "picture") + " as latents"
	}
	return plural(t.set.Samples, "latent")
}

// openTrainInput opens the device, the data and the autoencoder.
func openTrainInput(e *env, o *trainOptions, process dist.Env) (*trainInput, error) {
	t := &trainInput{config: &o.config}
	t.pictures = o.vae != "" && !o.hasLatents()
	open := t.openLatents
	if t.pictures {
		open = t.openPictures
	}
	if err := open(e, o, process); err != nil {
		t.close()
		return nil, err
	}
	t.set = t.source.Set()
	t.set.Name = o.data
	return t, nil
}

func (t *trainInput) openLatents(e *env, o *trainOptions, process dist.Env) (err error) {
	set, err := latents.Open(o.data)
	if isMissing(err) {
		return o.checkKindOfRun(withHint(err, "`ditrun encode-latents` makes latents from pictures"))
	} else if err != nil {
		return err
	}
	t.latents = set
	t.closers = append(t.closers, func() { set.Close() })
	if t.dev, err = e.openDeviceOf(process); err != nil {
		return err
	}
	if process.Rank == 0 {
		if err := o.findVAE(e, set); err != nil {
			return err
		}
	}
	if o.config.SampleEvery > 0 && process.Rank == 0 {
		if err := t.openVAE(o); err != nil {
			return err
		}
		if err := set.CheckVAE(t.vae.WeightsSHA256()); err != nil {
			return o.ofRun(withHint(err, "give the --vae that encode-latents was given"))
		}
	}
	if t.source, err = samples.Latents(set); err != nil || !o.dataOnDevice {
		return err
	}
	resident, err := samples.Resident(set, t.dev)
	if err != nil {
		return err
	}
	t.closers = append(t.closers, resident.Close)
	t.source = resident
	return nil
}

// findVAE looks for the autoencoder that made the latents, where no flag says which it is: in the current folder,
// beside the latents and in the cache. The run folder then knows it.
func (o *trainOptions) findVAE(e *env, set *latents.Set) error {
	if o.vae != "" {
		return nil
	}
	made := set.Manifest().VAE
	if o.vae = findAutoencoder(made.Name, made.SHA256, ".", filepath.Dir(filepath.Clean(o.data))); o.vae != "" {
		e.printf("vae     %s, which made the latents", o.vae)
	} else if o.config.SampleEvery > 0 {
		missing := &sampling.VAEError{Name: made.Name, SHA256: made.SHA256}
		return withHint(usagef("--sample-every: the autoencoder that made the latents, %s (sha256 %.12s...), is not "+
			"in this folder, beside the latents or in the cache", made.Name, made.SHA256), "%s", hintOfVAE(missing))
	}
	return nil
}

func (t *trainInput) openVAE(o *trainOptions) (err error) {
	if t.vae, err = vae.Open(o.vae, t.dev); err != nil {
		return o.ofRun(err)
	}
	t.closers = append(t.closers, t.vae.Close)
	return nil
}

func (t *trainInput) openPictures(e *env, o *trainOptions, process dist.Env) (err error) {
	flag, dir := "results-dir", o.resultsDir
	if o.runDir != "" {
		flag, dir = "run-dir", o.runDir
	}
	if err := outsideOf(o.data, flag, dir); err != nil {
		return err
	}
	if t.dev, err = e.openDeviceOf(process); err != nil {
		return err
	}
	if err := t.openVAE(o); err != nil {
		return err
	}
	if o.dataOnDevice || o.config.DataOrder != stream.ShuffleOrder {
		return usagef("train: --data-on-device and --data-order are for latents, %s holds pictures", o.data)
	}
	o.pictures.noClasses = o.config.Model.Condition == dit.OnNothing
	src, err := o.pictures.open(e, o.data)
	if err != nil {
		return err
	}
	t.closers = append(t.closers, func() { src.Close() })
	size := cmp.Or(o.imageSize, picture.Square(t.vae.Config().SampleSize))
	t.catalogue = src
	t.workers = cmp.Or(o.pictures.numWorkers, max(1, (runtime.GOMAXPROCS(0)-1)/max(1, process.LocalWorld)))
	if t.source, err = samples.Pictures(src, t.vae, nameOfVAE(o.vae), size, t.workers); err != nil {
		return ofFlag(err)
	}
	if process.Rank == 0 {
		e.warn("pictures are encoded again at every step: encode-latents does it once (%s-pixel pictures, the log's "+
			"TFLOP/s and MFU count the model alone)", size)
	}
	return nil
}
