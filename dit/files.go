package dit

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// Info is what a weight file says of itself beside the tensors. It stands as JSON under the key
// "ditrun" of the file's metadata.
type Info struct {
	Config        Config   `json:"config"`
	ImageSize     int      `json:"image_size"`           // pixels: the height, where pictures are not square
	Classes       []string `json:"classes,omitempty"`    // names by label
	ScalingFactor float64  `json:"scaling_factor"`       // of the latents it was trained on
	VAE           string   `json:"vae_sha256,omitempty"` // of the weights that made the latents
	VAEName       string   `json:"vae_name,omitempty"`   // what the file calls them, "" where it does not say
	// TextEncoder made the captions' states that a model conditioned on text was trained with.
	TextEncoder TextEncoder `json:"text_encoder,omitzero"`
	Step        int         `json:"step"`
	EMA         bool        `json:"ema"`
	Family      string      `json:"family,omitempty"` // SiT or REPA, where the model came from a file of these
	Process     Process     `json:"process,omitzero"` // what diffusion it was trained on
}

// A TextEncoder says what encodes captions.
type TextEncoder struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // hex, of its weights, or of the file of states that stands for it
}

const infoKey = "ditrun"

// Save writes weights, in the names of the published checkpoints, and info to a safetensors file.
func Save(path string, weights []checkpoint.Tensor, info Info) error {
	meta, err := info.metadata()
	if err != nil {
		return err
	}
	return checkpoint.Write(path, weights, meta)
}

// Save writes the model, with its configuration in place of info's, as the function [Save] does.
func (m *DiT) Save(path string, info Info) error {
	info.Config = m.cfg
	return Save(path, nn.Snapshot(nn.List(m)), info)
}

// Close frees the parameters, as nn.Close does.
func (m *DiT) Close() { nn.Close(m) }

// metadata is what stands in the head of a file of this model.
func (i Info) metadata() (map[string]string, error) {
	text, err := json.Marshal(i)
	return map[string]string{"format": "pt", infoKey: string(text)}, err
}

// folderNames are the weights that a folder of diffusers stands for, of a pipeline and of a transformer, the first
// that is there.
var folderNames = diffusersFiles("transformer/", "")

func diffusersFiles(dirs ...string) (names []string) {
	for _, dir := range dirs {
		for _, name := range []string{"safetensors", "safetensors.index.json", "fp16.safetensors", "bin",
			"bin.index.json"} {
			names = append(names, dir+"diffusion_pytorch_model."+name)
		}
	}
	return names
}

// weightsOf resolves what a user names as a checkpoint: a file, or a folder that holds one. Note says what was taken
// where the link `latest` of a run does not say it.
func weightsOf(path string) (file, note string, err error) {
	st, statErr := os.Stat(path)
	if filepath.Base(path) == saves.LatestName && (statErr != nil || st.IsDir()) {
		if dir, note, err := saves.Latest(filepath.Dir(path)); err == nil {
			return filepath.Join(dir, saves.EMAName), note, nil
		}
	}
	if statErr != nil {
		return "", "", fmt.Errorf("open checkpoint %s: no such file or folder", path)
	}
	if !st.IsDir() {
		return path, "", nil
	}
	if f := filepath.Join(path, saves.EMAName); exists(f) { // a checkpoint of a run
		return f, "", nil
	}
	for _, dir := range []string{path, filepath.Join(path, "checkpoints")} { // the folder above, and a run
		if at, note, err := saves.Latest(dir); err == nil && exists(filepath.Join(at, saves.EMAName)) {
			return filepath.Join(at, saves.EMAName), note, nil
		}
	}
	for _, below := range folderNames {
		if f := filepath.Join(path, filepath.FromSlash(below)); exists(f) {
			return f, "", nil
		}
	}
	return "", "", fmt.Errorf("open checkpoint %s: found neither ema.safetensors (in the folder, in latest or in "+
		"checkpoints/latest) nor diffusion_pytorch_model.* (in the folder or in transformer)", path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Open reads a model from path; see [Read] for what that can be, here with everything the file says. The
// parameters are on the scope's device until nn.Close(model).
func Open(s *torch.Scope, path string) (*DiT, Info, error) {
	w, err := Read(path, "")
	if err != nil {
		return nil, Info{}, err
	}
	defer w.Close()
	m, err := w.Load(s)
	return m, w.Info, err
}

// fits holds a configuration from a file against the file's own tensors before anything is allocated,
// so that a hostile configuration cannot take much more memory than the file has. nn.Load says which tensors are
// missing or of another shape.
func fits(cfg Config, src checkpoint.Source) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	have := 0.0
	for _, info := range src.Tensors() {
		n := 1.0
		for _, d := range info.Shape {
			n *= float64(d)
		}
		have += n
	}
	const slack = 1 << 20
	if want := cfg.NumParams(); want > 2*have+slack {
		return fmt.Errorf("the configuration (%s, latent size %s, %d classes) has %.0f parameters, the tensors hold "+
			"%.0f numbers", cfg.Name(), cfg.Size(), cfg.NumClasses, want, have)
	}
	return nil
}
