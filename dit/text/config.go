package text

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// Config describes a text encoder. Its JSON form is the config.json of a CLIPTextModel of transformers.
type Config struct {
	ModelType             string  `json:"model_type"`
	VocabSize             int     `json:"vocab_size"`
	HiddenSize            int     `json:"hidden_size"` // W
	IntermediateSize      int     `json:"intermediate_size"`
	NumHiddenLayers       int     `json:"num_hidden_layers"`
	NumAttentionHeads     int     `json:"num_attention_heads"`
	MaxPositionEmbeddings int     `json:"max_position_embeddings"`
	HiddenAct             string  `json:"hidden_act"` // quick_gelu or gelu
	LayerNormEps          float64 `json:"layer_norm_eps"`
}

// DefaultConfig holds the values of the keys that a config.json leaves out.
func DefaultConfig() Config {
	return Config{
		ModelType: "clip_text_model", VocabSize: 49408, HiddenSize: 512, IntermediateSize: 2048, NumHiddenLayers: 12,
		NumAttentionHeads: 8, MaxPositionEmbeddings: 77, HiddenAct: "quick_gelu", LayerNormEps: 1e-5,
	}
}

// maxParams keeps a hostile config from making this program allocate without end.
const maxParams = 1 << 30

// Validate returns an error that gives the value and the rule it breaks.
func (c Config) Validate() error {
	if c.ModelType != "clip_text_model" && c.ModelType != "clip" {
		return fmt.Errorf("model_type %q: want clip_text_model or clip", c.ModelType)
	}
	for _, f := range []struct {
		name        string
		value, most int
	}{
		{"vocab_size", c.VocabSize, 1 << 20}, {"hidden_size", c.HiddenSize, 1 << 14},
		{"intermediate_size", c.IntermediateSize, 1 << 16},
		{"num_hidden_layers", c.NumHiddenLayers, 256}, {"num_attention_heads", c.NumAttentionHeads, 1 << 10},
	} {
		if f.value < 1 || f.value > f.most {
			return fmt.Errorf("%s %d: want 1 to %d", f.name, f.value, f.most)
		}
	}
	if c.MaxPositionEmbeddings < 2 || c.MaxPositionEmbeddings > 4096 {
		return fmt.Errorf("max_position_embeddings %d: want 2 to 4096", c.MaxPositionEmbeddings)
	}
	if c.HiddenSize%c.NumAttentionHeads != 0 {
		return fmt.Errorf("hidden_size %d is not divisible by num_attention_heads %d", c.HiddenSize,
			c.NumAttentionHeads)
	}
	if c.HiddenAct != "quick_gelu" && c.HiddenAct != "gelu" {
		return fmt.Errorf("hidden_act %q: want quick_gelu or gelu", c.HiddenAct)
	}
	if !(c.LayerNormEps > 0 && c.LayerNormEps < 1) {
		return fmt.Errorf("layer_norm_eps %v: want a number between 0 and 1", c.LayerNormEps)
	}
	if n := c.NumParams(); n > maxParams {
		return fmt.Errorf("a model of %d parameters: want at most %d", n, maxParams)
	}
	return nil
}

// NumParams returns the number of weights of the encoder.
func (c Config) NumParams() int { return nn.NumParams(build(torch.Shapes(), c)) }

// maxConfigSize is far above the size of any config.json.
const maxConfigSize = 1 << 20

// readConfig reads the config.json of a folder: that of a CLIPTextModel, or of a whole CLIPModel, of which
// it takes the part text_config. Unknown keys are ignored, missing ones have the defaults.
func readConfig(dir string) (Config, []byte, error) {
	fail := func(err error) (Config, []byte, error) { return Config{}, nil, fmt.Errorf("%s: %w", configName, err) }
	f, err := os.Open(filepath.Join(dir, configName))
	if err != nil {
		return fail(disk.Bare(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return fail(disk.Bare(err))
	}
	if len(data) > maxConfigSize {
		return fail(fmt.Errorf("more than %d bytes", maxConfigSize))
	}
	if data, err = disk.PlainText(data); err != nil {
		return fail(err)
	}
	var whole struct {
		Text json.RawMessage `json:"text_config"`
	}
	if err := json.Unmarshal(data, &whole); err != nil {
		return fail(err)
	}
	part := whole.Text
	if part == nil {
		part = data
	}
	cfg := DefaultConfig()
	if err := json.Unmarshal(part, &cfg); err != nil {
		return fail(err)
	}
	if err := cfg.Validate(); err != nil {
		return fail(err)
	}
	return cfg, data, nil
}
