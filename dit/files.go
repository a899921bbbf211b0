package dit

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// Info is what a weight file says of itself beside the tensors. It stands as JSON under the key
// "ditrun" of the file's metadata.
type Info struct {
	Config        Config   `json:"config"`
	ImageSize     int      `json:"image_size"`           // pixels a side
	Classes       []string `json:"classes,omitempty"`    // names by label
	ScalingFactor float64  `json:"scaling_factor"`       // of the latents it was trained on
	VAE           string   `json:"vae_sha256,omitempty"` // of the weights that made the latents
	Step          int      `json:"step"`
	EMA           bool     `json:"ema"`
}

const infoKey = "ditrun"

// Save writes params, in the names of the published checkpoints, and info to a safetensors file.
func Save(path string, params []nn.Param, info Info) error {
	text, err := json.Marshal(info)
	if err != nil {
		return err
	}
	return checkpoint.Write(path, nn.Snapshot(params), map[string]string{"format": "pt", infoKey: string(text)})
}

// weightsOf resolves what a user names as a checkpoint: a file, or a folder that holds the averaged
// weights of a step.
func weightsOf(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("open checkpoint %s: no such file or folder", path)
	}
	if !st.IsDir() {
		return path, nil
	}
	for _, below := range []string{"ema.safetensors", "latest/ema.safetensors", "checkpoints/latest/ema.safetensors"} {
		if f := filepath.Join(path, below); exists(f) {
			return f, nil
		}
	}
	return "", fmt.Errorf("open checkpoint %s: found no ema.safetensors in the folder, in latest or in checkpoints/latest", path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Open reads a model from path: a weight file that [Save] wrote, a checkpoint folder, or a run folder,
// of which the averaged weights of the latest checkpoint are taken. The parameters are on the
// scope's device until nn.Close(model).
func Open(s *torch.Scope, path string) (*DiT, Info, error) {
	var info Info
	path, err := weightsOf(path)
	if err != nil {
		return nil, info, err
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, info, err
	}
	defer f.Close()
	text, ok := f.Metadata()[infoKey]
	if !ok {
		return nil, info, fmt.Errorf("open %s: its metadata has no entry %q: want a weight file written by ditrun train", path, infoKey)
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return nil, info, fmt.Errorf("open %s: metadata entry %q: %w", path, infoKey, err)
	}
	if err := fits(info.Config, f); err != nil {
		return nil, info, fmt.Errorf("open %s: %w", path, err)
	}
	m, err := New(s, info.Config)
	if err != nil {
		return nil, info, fmt.Errorf("open %s: %w", path, err)
	}
	if err := nn.Load(s, m, f, false); err != nil {
		nn.Close(m)
		return nil, info, fmt.Errorf("open %s: %w", path, err)
	}
	return m, info, nil
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
		return fmt.Errorf("the configuration (%s, latent size %d, %d classes) has %.0f parameters, the tensors hold %.0f numbers", cfg.Name(), cfg.InputSize, cfg.NumClasses, want, have)
	}
	return nil
}
