package vae

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
	"github.com/ditrun/ditrun/torch/nn"
)

// Weights are an open autoencoder file: what it is, and its tensors under diffusers' names of today.
// Nothing is in memory but names and sizes.
type Weights struct {
	Config Config
	checkpoint.Source

	Path   string // of the weight file
	Format string // of the weight file: safetensors, PyTorch, ...
	Naming string // whose names the file has: diffusers, diffusers (old attention) or CompVis
	// Notes say what was assumed because no config.json says it.
	Notes []string

	file *checkpoint.File
}

// Close closes the file.
func (w *Weights) Close() error { return w.file.Close() }

// String says in one line what was found.
func (w *Weights) String() string {
	c := w.Config
	return fmt.Sprintf("AutoencoderKL (%s names, %s), %d parameters, %s to one, %s, scaling factor %.5g", w.Naming,
		w.Format, c.NumParams(), names.Plural(c.Downsample(), "pixel"),
		names.Plural(c.LatentChannels, "latent channel"), c.ScalingFactor)
}

// Read opens an autoencoder: a folder of diffusers or of train-vae, a pipeline folder with one in its
// subfolder vae, or a weight file in the names of diffusers (of today or before) or CompVis, among them
// whole checkpoints of Stable Diffusion. Without a config.json beside the file the sizes are read off
// the tensors, and the scaling factor is Stable Diffusion's.
func Read(path string) (*Weights, error) {
	file, err := weightsPath(path)
	if err != nil {
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	w := &Weights{Path: file}
	if w.file, err = checkpoint.Open(file); err != nil {
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	w.Format = w.file.Format()
	if err := w.recognise(path != file); err != nil {
		if damage := w.file.Verify(); damage != nil { // the cause of whatever was found
			err = damage
		}
		w.Close()
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	return w, nil
}

// Signed names the file beside the weights that holds their checksum, which is compared as they are read, "" where
// there is none.
func (w *Weights) Signed() string { return w.file.Signed() }

// SHA256 returns the hex SHA-256 of the weight file, of a model in several files that of the file that lists them.
func (w *Weights) SHA256() (string, error) { return w.file.SHA256() }

// recognise finds out what the file is and maps its tensors. A folder must have a config.json.
func (w *Weights) recognise(folder bool) error {
	found := namemap.Models(w.file, "encoder.conv_in.weight")
	if len(found) == 0 {
		return fmt.Errorf("found %s, but no encoder.conv_in.weight: want an autoencoder",
			names.Plural(len(w.file.Tensors()), "tensor"))
	}
	m, err := namemap.First(found)
	if err != nil {
		return err
	}
	src, notes, err := m.Tensors(w.file)
	if err != nil {
		return err
	}
	if w.Notes = notes; m.Averaged {
		w.Notes = append(w.Notes, "averaged weights, which the file has under "+m.Part)
	}
	var names naming
	has := func(name string) bool { _, ok := src.Lookup(name); return ok }
	switch {
	case has("encoder.mid.block_1.conv1.weight"):
		w.Naming, names = "CompVis", compVis
	case has("encoder.mid_block.attentions.0.query.weight"):
		w.Naming, names = "old diffusers", oldAttention
	default:
		w.Naming = "diffusers"
	}
	w.Config, notes, err = readConfig(filepath.Join(filepath.Dir(w.Path), ConfigName))
	w.Notes = append(w.Notes, notes...)
	if !folder && errors.Is(err, fs.ErrNotExist) {
		if w.Config, err = infer(src, names); err == nil {
			w.Notes = append(w.Notes,
				fmt.Sprintf("no %s beside it: sizes read off the tensors, scaling factor taken to be Stable "+
					"Diffusion's", ConfigName))
		}
	}
	if err != nil {
		return err
	}
	w.Source, err = namemap.Map(src, w.Config.entries(src, names), func(name string) bool {
		return strings.HasPrefix(name, "loss.") || strings.HasPrefix(name, "model_ema.") // of its training
	})
	return m.InFile(err)
}

// infer reads the sizes of a model off its tensors.
func infer(src checkpoint.Source, names naming) (Config, error) {
	fail := func(name string) (Config, error) {
		return Config{}, fmt.Errorf("no %s, and tensor %s, which would give the sizes, is missing or of another rank",
			ConfigName,
			name)
	}
	// The names that are asked for do not depend on the number of levels.
	shape := func(name string) []int64 {
		info, ok := src.Lookup(names.other(name, 1))
		if !ok || len(info.Shape) != 4 ||
			slices.ContainsFunc(info.Shape, func(d int64) bool { return d < 1 || d > 1<<16 }) {
			return nil
		}
		return info.Shape
	}
	c := StableDiffusion()
	in, out, latent := shape("encoder.conv_in.weight"), shape("decoder.conv_out.weight"),
		shape("post_quant_conv.weight")
	for _, t := range []struct {
		name  string
		shape []int64
	}{{"encoder.conv_in.weight", in}, {"decoder.conv_out.weight", out}, {"post_quant_conv.weight", latent}} {
		if t.shape == nil {
			return fail(t.name)
		}
	}
	var widths []int
	for i := 0; i <= maxLevels; i++ {
		s := shape(fmt.Sprintf("encoder.down_blocks.%d.resnets.0.conv1.weight", i))
		if s == nil {
			break
		}
		widths = append(widths, int(s[0]))
	}
	if len(widths) == 0 {
		return fail("encoder.down_blocks.0.resnets.0.conv1.weight")
	}
	layers := 0
	for shape(fmt.Sprintf("encoder.down_blocks.0.resnets.%d.conv1.weight", layers)) != nil && layers < 64 {
		layers++
	}
	c = c.withLevels(widths)
	c.InChannels, c.OutChannels, c.LatentChannels, c.LayersPerBlock = int(in[1]), int(out[0]), int(latent[0]), layers
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("sizes read off the tensors: %w: want the %s of the model beside the file, which "+
			"has what tensors do not tell", err, ConfigName)
	}
	return c, nil
}

// Save writes the weights into the folder dir, made if needed, as diffusers and [Open] read them.
func (w *Weights) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := unsign(dir); err != nil {
		return err
	}
	if err := checkpoint.Write(filepath.Join(dir, WeightsName), checkpoint.From(w.Source),
		map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return writeConfig(dir, w.Config)
}

func writeConfig(dir string, cfg Config) error {
	return disk.WriteFile(filepath.Join(dir, ConfigName), func(w io.Writer) error { return encodeConfig(w, cfg) })
}

func encodeConfig(w io.Writer, cfg Config) error {
	text, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// unsign removes the checksums of what is about to be written anew.
func unsign(dir string) error {
	err := os.Remove(filepath.Join(dir, saves.SumsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Open loads a model onto dev from whatever [Read] opens. Weights of another float type become Float32. What has not
// the checksum that stands beside it, in SHA256SUMS, is an error. The caller closes the model.
func Open(path string, dev torch.Device) (m *AutoencoderKL, err error) {
	w, err := Read(path)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	err = torch.Run(dev, func(s *torch.Scope) (err error) {
		m, err = load(s, w.Config, w.Source)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
	m.notes = w.Notes
	if m.sha256, err = w.SHA256(); err != nil {
		m.Close()
		return nil, fmt.Errorf("open VAE %s: %w", path, err)
	}
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

// weightFiles are the names that diffusers gives weights in a folder, the one to take first.
var weightFiles = []string{WeightsName, WeightsName + ".index.json", "diffusion_pytorch_model.fp16.safetensors",
	"diffusion_pytorch_model.bin", "diffusion_pytorch_model.bin.index.json"}

// weightsPath finds the weights file that path names.
func weightsPath(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", disk.Bare(err)
	}
	if !info.IsDir() {
		return path, nil
	}
	for _, dir := range []string{path, filepath.Join(path, "vae")} {
		for _, name := range weightFiles {
			switch _, err := os.Stat(filepath.Join(dir, name)); {
			case err == nil:
				return filepath.Join(dir, name), nil
			case !errors.Is(err, fs.ErrNotExist):
				return "", err
			}
		}
	}
	return "", fmt.Errorf("no %s in the folder or in its subfolder vae: want a diffusers AutoencoderKL, or what "+
		"train-vae writes", WeightsName)
}
