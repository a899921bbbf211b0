package vae

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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

// Open loads a model onto dev from a folder that holds config.json and
// diffusion_pytorch_model.safetensors, as diffusers and [AutoencoderKL.Save] write it, or from one
// .safetensors file with a config.json beside it. Weights of another float type become Float32.
// The caller closes the model.
func Open(path string, dev torch.Device) (*AutoencoderKL, error) {
	weights, err := weightsPath(path)
	if err != nil {
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	cfg, err := readConfig(filepath.Join(filepath.Dir(weights), ConfigName))
	if err != nil {
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	f, err := checkpoint.Open(weights)
	if err != nil {
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	defer f.Close()
	src, err := renamed(f)
	if err != nil {
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	sum, err := fileSHA256(weights)
	if err != nil {
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	var m *AutoencoderKL
	err = torch.Run(dev, func(s *torch.Scope) (err error) {
		m, err = load(s, cfg, src)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	m.sha256 = sum
	return m, nil
}

func load(s *torch.Scope, cfg Config, src checkpoint.Source) (m *AutoencoderKL, err error) {
	if m, err = New(s, cfg); err != nil {
		return nil, err
	}
	if err := nn.Load(s, m, src, false); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// weightsPath finds the weights file that path names.
func weightsPath(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", bare(err)
	}
	if !info.IsDir() {
		return path, nil
	}
	weights := filepath.Join(path, WeightsName)
	if _, err := os.Stat(weights); err == nil {
		return weights, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(path, "diffusion_pytorch_model.bin")); err == nil {
		return "", fmt.Errorf("no %s, only diffusion_pytorch_model.bin: convert it to safetensors first", WeightsName)
	}
	return "", fmt.Errorf("no %s in the folder: want a diffusers AutoencoderKL, or what train-vae writes", WeightsName)
}

// readConfig reads a config.json. Unknown keys are ignored, missing ones mean the defaults.
func readConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", ConfigName, bare(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", ConfigName, bare(err))
	}
	if len(text) > maxConfigSize {
		return Config{}, fmt.Errorf("%s: more than %d bytes", ConfigName, maxConfigSize)
	}
	cfg := DefaultConfig()
	if err := json.Unmarshal(text, &cfg); err != nil {
		return Config{}, fmt.Errorf("%s: %w", ConfigName, err)
	}
	if err := cfg.Validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", ConfigName, err)
	}
	return cfg, nil
}

// Save writes the model into the folder dir, made if needed, in the form that [Open] and diffusers
// read. Each of the two files is written whole or not at all.
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
	sum := sha256.New()
	err = checkpoint.WriteFile(filepath.Join(dir, WeightsName), func(w io.Writer) error {
		return checkpoint.Encode(io.MultiWriter(w, sum), state, map[string]string{"format": "pt"}, checkpoint.Options{})
	})
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(m.cfg, "", "  ")
	if err != nil {
		return err
	}
	err = checkpoint.WriteFile(filepath.Join(dir, ConfigName), func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return err
	}
	m.sha256 = hex.EncodeToString(sum.Sum(nil))
	return nil
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// bare drops the path from an error of the os package whose caller has named it.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// attentionNames maps the names that the attention's weights have in older files to today's.
var attentionNames = map[string]string{"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

// renamedSource presents a file under today's names and shapes.
type renamedSource struct {
	file  *checkpoint.File
	infos []checkpoint.Info
	index map[string]int    // into infos, by today's name
	names map[string]string // today's name to the file's
}

// renamed maps the names of f. Attention weights that are kept as 1x1 convolutions [D, D, 1, 1] get
// the shape of matrices.
func renamed(f *checkpoint.File) (checkpoint.Source, error) {
	r := &renamedSource{f, nil, map[string]int{}, map[string]string{}}
	for _, info := range f.Tensors() {
		name := info.Name
		if block, rest, ok := strings.Cut(name, ".attentions.0."); ok {
			if layer, kind, ok := strings.Cut(rest, "."); ok && attentionNames[layer] != "" {
				info.Name = block + ".attentions.0." + attentionNames[layer] + "." + kind
			}
			if sh := info.Shape; len(sh) == 4 && sh[2] == 1 && sh[3] == 1 {
				info.Shape = sh[:2]
			}
		}
		if other, twice := r.names[info.Name]; twice {
			return nil, fmt.Errorf("%s holds %q both as %q and as %q", filepath.Base(f.Path()), info.Name, other, name)
		}
		r.index[info.Name], r.names[info.Name] = len(r.infos), name
		r.infos = append(r.infos, info)
	}
	return r, nil
}

func (r *renamedSource) Tensors() []checkpoint.Info { return r.infos }

func (r *renamedSource) Lookup(name string) (checkpoint.Info, bool) {
	i, ok := r.index[name]
	if !ok {
		return checkpoint.Info{}, false
	}
	return r.infos[i], true
}

func (r *renamedSource) ReadAt(p []byte, name string, off int64) error {
	return r.file.ReadAt(p, r.names[name], off)
}
