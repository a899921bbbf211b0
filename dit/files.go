package dit

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// Info is what a weight file says of itself beside the tensors. It stands as JSON under the key
// "ditrun" of the file's metadata.
type Info struct {
	Config        Config   `json:"config"`
	ImageSize     int      `json:"image_size"`           // pixels: the height, where pictures are not square
	Classes       []string `json:"classes,omitempty"`    // names by label
	ScalingFactor float64  `json:"scaling_factor"`       // of the latents it was trained on
	VAE           string   `json:"vae_sha256,omitempty"` // of the weights that made the latents
	// TextEncoder made the captions' states that a model conditioned on text was trained with.
	TextEncoder TextEncoder `json:"text_encoder,omitzero"`
	Step        int         `json:"step"`
	EMA         bool        `json:"ema"`
	Family      string      `json:"family,omitempty"` // SiT or REPA: it predicts a velocity, not noise
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

// metadata is what stands in the head of a file of this model.
func (i Info) metadata() (map[string]string, error) {
	text, err := json.Marshal(i)
	return map[string]string{"format": "pt", infoKey: string(text)}, err
}

// folderNames are the weights that a folder stands for, the first that is there. The first three are
// those of a run, a checkpoint folder or the folder above; the others are diffusers', of a pipeline and
// of a transformer.
var folderNames = append([]string{"ema.safetensors", "latest/ema.safetensors", "checkpoints/latest/ema.safetensors"},
	diffusersFiles("transformer/", "")...)

func diffusersFiles(dirs ...string) (names []string) {
	for _, dir := range dirs {
		for _, name := range []string{"safetensors", "safetensors.index.json", "fp16.safetensors", "bin", "bin.index.json"} {
			names = append(names, dir+"diffusion_pytorch_model."+name)
		}
	}
	return names
}

// weightsOf resolves what a user names as a checkpoint: a file, or a folder that holds one.
func weightsOf(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("open checkpoint %s: no such file or folder", path)
	}
	if !st.IsDir() {
		return path, nil
	}
	for _, below := range folderNames {
		if f := filepath.Join(path, filepath.FromSlash(below)); exists(f) {
			return f, nil
		}
	}
	return "", fmt.Errorf("open checkpoint %s: found neither ema.safetensors (in the folder, in latest or in checkpoints/latest) nor diffusion_pytorch_model.* (in the folder or in transformer)", path)
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
// so that a hostile configuration cannot ask for much more memory than the file has. Which tensors are
// missing or of another shape is for nn.Load to say.
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
		return fmt.Errorf("the configuration (%s, latent size %s, %d classes) has %.0f parameters, the tensors hold %.0f numbers", cfg.Name(), cfg.Size(), cfg.NumClasses, want, have)
	}
	return nil
}
