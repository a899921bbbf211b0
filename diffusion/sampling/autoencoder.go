package sampling

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/vae"
)

// ErrNoVAE is wrapped where neither the caller nor the checkpoint names an autoencoder.
var ErrNoVAE = errors.New("no autoencoder")

// A RunVAEError says why the autoencoder that a run names cannot be used.
type RunVAEError struct {
	Config string // the configuration of the run
	Path   string // that it names
	Err    error
}

func (e *RunVAEError) Error() string {
	return fmt.Sprintf("its autoencoder %s, which %s names: %v", e.Path, e.Config, e.Err)
}

func (e *RunVAEError) Unwrap() error { return e.Err }

// Autoencoder returns the path of the autoencoder that belongs to weights: that of their diffusers pipeline, or the one
// that the config.yaml of their run names, which must be there and have made the latents that the model was trained on:
// else the error is a [RunVAEError].
func Autoencoder(w *dit.Weights) (string, error) {
	if path := w.PipelineVAE(); path != "" {
		return path, nil
	}
	run := runs.Of(w.Path)
	if run == "" {
		return "", fmt.Errorf("%w came with it", ErrNoVAE)
	}
	path, err := runs.Autoencoder(run)
	if err != nil {
		return "", err
	}
	config := filepath.Join(run, runs.ConfigName)
	if path == "" {
		return "", fmt.Errorf("%w came with it, and %s names none", ErrNoVAE, config)
	}
	if err := madeLatentsOf(w.Info, path); err != nil {
		return "", &RunVAEError{config, path, err}
	}
	return path, nil
}

// madeLatentsOf returns an error unless the autoencoder at path made the latents that a model was trained on.
func madeLatentsOf(info dit.Info, path string) error {
	if _, err := os.Stat(path); err != nil {
		return disk.Bare(err)
	}
	v, err := vae.Read(path)
	if err != nil {
		return err
	}
	defer v.Close()
	sum, err := v.SHA256()
	if err == nil && info.VAE != "" && sum != info.VAE {
		err = fmt.Errorf("not the one that made the latents of the run (weights %.12s, want %.12s)", sum, info.VAE)
	}
	return err
}
