package sampling

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/vae"
)

// A VAEError says why a checkpoint brings no autoencoder.
type VAEError struct {
	Config string // the configuration of its run, "" for weights of no run
	Path   string // of the autoencoder that Config names, "" where it names none
	Err    error  // why that one cannot be used, nil where there is none
	// Name and SHA256 are those of the autoencoder that made the latents, as the checkpoint says, "" where it does not.
	Name, SHA256 string
}

func (e *VAEError) Error() string {
	if e.Path != "" {
		return fmt.Sprintf("its autoencoder %s, which %s names: %v", e.Path, e.Config, e.Err)
	}
	text := "no autoencoder came with it"
	if e.Config != "" {
		text += fmt.Sprintf(", and %s names none", e.Config)
	}
	if e.Name != "" || e.SHA256 != "" {
		text += ": its latents were made by " + cmp.Or(e.Name, "one")
	}
	if e.SHA256 != "" {
		text += fmt.Sprintf(" (sha256 %.12s...)", e.SHA256)
	}
	return text
}

func (e *VAEError) Unwrap() error { return e.Err }

// Autoencoder returns the path of the autoencoder that belongs to weights: that of their diffusers pipeline, or the one
// that the config.yaml of their run names, which must be there and have made the latents that the model was trained on:
// else the error is a [VAEError].
func Autoencoder(w *dit.Weights) (string, error) {
	path, config, err := ownVAE(w)
	if err != nil || config == "" {
		return path, err
	}
	v, err := vae.Read(path)
	if err == nil {
		var sum string
		if sum, err = v.SHA256(); err == nil {
			err = madeLatents(w, sum)
		}
		v.Close()
	}
	return path, unusable(w, path, config, err)
}

// ownVAE returns the path of the autoencoder that belongs to weights, and the configuration that names it, "" for that
// of a diffusers pipeline.
func ownVAE(w *dit.Weights) (path, config string, err error) {
	if path := w.PipelineVAE(); path != "" {
		return path, "", nil
	}
	none := &VAEError{Name: w.VAEName, SHA256: w.VAE}
	run := runs.Of(w.Path)
	if run == "" {
		return "", "", none
	}
	if path, err = runs.Autoencoder(run); err != nil {
		return "", "", err
	}
	config = filepath.Join(run, runs.ConfigName)
	if path == "" {
		none.Config = config
		return "", "", none
	}
	if _, err := os.Stat(path); err != nil {
		return "", "", unusable(w, path, config, disk.Bare(err))
	}
	return path, config, nil
}

// openVAE opens the autoencoder that belongs to weights, as [Autoencoder] finds it.
func openVAE(dev torch.Device, w *dit.Weights) (v *vae.AutoencoderKL, path string, err error) {
	path, config, err := ownVAE(w)
	if err != nil {
		return nil, "", err
	}
	v, err = vae.Open(path, dev)
	if config == "" {
		return v, path, err
	}
	if err == nil {
		if err = madeLatents(w, v.WeightsSHA256()); err != nil {
			v.Close()
		}
	}
	return v, path, unusable(w, path, config, err)
}

// madeLatents returns an error unless an autoencoder of the given SHA-256 made the latents that weights were trained
// on.
func madeLatents(w *dit.Weights, sum string) error {
	if w.VAE != "" && sum != w.VAE {
		return fmt.Errorf("not the one that made the latents of the run (weights %.12s, want %.12s)", sum, w.VAE)
	}
	return nil
}

// unusable adds to err, which may be nil, which autoencoder it is about.
func unusable(w *dit.Weights, path, config string, err error) error {
	if err == nil {
		return nil
	}
	return &VAEError{config, path, err, w.VAEName, w.VAE}
}
