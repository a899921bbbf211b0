package vae

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// Names of the two files of a model, as diffusers has them.
const (
	ConfigName  = "config.json"
	WeightsName = "diffusion_pytorch_model.safetensors"
)

// maxConfigSize is far above the size of any config.json.
const maxConfigSize = 1 << 20

// readConfig reads a config.json. Unknown keys are ignored, missing ones mean the defaults.
func readConfig(path string) (cfg Config, notes []string, err error) {
	text, err := saves.ReadSigned(path, maxConfigSize)
	if err != nil {
		return Config{}, nil, fmt.Errorf("%s: %w", ConfigName, disk.Bare(err))
	}
	cfg = DefaultConfig()
	var factor struct {
		Given *float64 `json:"scaling_factor"`
	}
	if text, err = disk.PlainText(text); err == nil {
		err = json.Unmarshal(text, &cfg)
	}
	if err == nil {
		err = json.Unmarshal(text, &factor)
	}
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return Config{}, nil, fmt.Errorf("%s: %w", ConfigName, err)
	}
	if factor.Given == nil {
		notes = append(notes, ConfigName+" names no scaling factor: Stable Diffusion's is taken")
	}
	return cfg, notes, nil
}

// Save writes the model into the folder dir, made if needed, in the form that [Open] and diffusers
// read, and last its checksums, with which Open compares. Each of the files is written whole or not at all.
func (m *AutoencoderKL) Save(dir string) error {
	if err := m.save(dir); err != nil {
		return fmt.Errorf("save VAE: %w", err)
	}
	return nil
}

func (m *AutoencoderKL) save(dir string) error {
	if err := m.cfg.Validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	var state []checkpoint.Tensor
	err := torch.Run(m.Device(), func(*torch.Scope) error {
		state = nn.State(m)
		return nil
	})
	if err != nil {
		return err
	}
	if err := unsign(dir); err != nil {
		return err
	}
	// A folder without a configuration is no model: the weights of one and the scaling factor of another would be
	// wrong.
	if err := os.Remove(filepath.Join(dir, ConfigName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	weights, err := saves.Write(dir, WeightsName, func(w io.Writer) error {
		return checkpoint.Encode(w, state, map[string]string{"format": "pt"}, checkpoint.Options{})
	})
	if err != nil {
		return err
	}
	if err := writeConfig(dir, m.cfg); err != nil {
		return err
	}
	m.sha256 = weights.SHA256
	config, err := saves.Describe(dir, ConfigName)
	if err != nil {
		return err
	}
	return saves.WriteSums(dir, []saves.File{config, weights})
}
