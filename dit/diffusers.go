package dit

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
)

// A transformerConfig is the config.json of diffusers' DiTTransformer2DModel.
type transformerConfig struct {
	ClassName              string  `json:"_class_name"`
	ActivationFn           string  `json:"activation_fn"`
	AttentionBias          bool    `json:"attention_bias"`
	AttentionHeadDim       int     `json:"attention_head_dim"`
	Dropout                float64 `json:"dropout"`
	InChannels             int     `json:"in_channels"`
	NormElementwiseAffine  bool    `json:"norm_elementwise_affine"`
	NormEps                float64 `json:"norm_eps"`
	NormNumGroups          int     `json:"norm_num_groups"`
	NormType               string  `json:"norm_type"`
	NumAttentionHeads      int     `json:"num_attention_heads"`
	NumEmbedsAdaNorm       int     `json:"num_embeds_ada_norm"`
	NumLayers              int     `json:"num_layers"`
	OutChannels            int     `json:"out_channels"`
	PatchSize              int     `json:"patch_size"`
	SampleSize             int     `json:"sample_size"`
	TimestepFrequencyShift int     `json:"timestep_frequency_shift,omitempty"` // ours: diffusers leaves it alone
	UpcastAttention        bool    `json:"upcast_attention"`
}

// DiffusersNormEps is what diffusers takes for the norm before the MLP where the file does not say.
const DiffusersNormEps = 1e-5

// readDiffusersConfig reads the files beside the weights: config.json, and from the pipeline's folder
// the names of classes. It returns the number of classes of the label table.
func (w *Weights) readDiffusersConfig() (tableClasses int, err error) {
	dir := filepath.Dir(w.Path)
	t := transformerConfig{NormEps: DiffusersNormEps}
	if err := readJSON(filepath.Join(dir, "config.json"), &t); err != nil {
		return 0, err
	}
	switch {
	case t.ClassName != "DiTTransformer2DModel" && t.ClassName != "Transformer2DModel", t.NormType != "ada_norm_zero":
		return 0, fmt.Errorf("config.json: class %q with norm_type %q: want a DiTTransformer2DModel with ada_norm_zero",
			t.ClassName, t.NormType)
	case t.ActivationFn != "gelu-approximate", t.NormElementwiseAffine:
		return 0, fmt.Errorf("config.json: activation_fn %q, norm_elementwise_affine %v: want gelu-approximate "+
			"without affine norms", t.ActivationFn, t.NormElementwiseAffine)
	case t.OutChannels != t.InChannels && t.OutChannels != 2*t.InChannels:
		return 0, fmt.Errorf("config.json: out_channels %d for in_channels %d: want as many, or twice", t.OutChannels,
			t.InChannels)
	}
	c := XL2
	c.InputSize, c.PatchSize, c.InChannels = t.SampleSize, t.PatchSize, t.InChannels
	c.HiddenSize, c.Depth, c.NumHeads = t.NumAttentionHeads*t.AttentionHeadDim, t.NumLayers, t.NumAttentionHeads
	c.NumClasses, c.LearnSigma = t.NumEmbedsAdaNorm, t.OutChannels == 2*t.InChannels
	if t.TimestepFrequencyShift != 0 {
		// The file says that it was trained with diffusers' arithmetic.
		c = c.WithDiffusersArithmetic(t.NormEps)
	}
	if err := c.Validate(); err != nil {
		return 0, fmt.Errorf("config.json: %w", err)
	}
	w.Config, w.ImageSize = c, c.InputSize*downsampling
	w.note("positions computed: diffusers keeps none")
	w.readPipeline(filepath.Dir(dir))
	return c.NumClasses, nil
}

// readPipeline takes from a pipeline's folder what is there: names of classes, scale of the latents.
func (w *Weights) readPipeline(dir string) {
	var index struct {
		ClassName string            `json:"_class_name"`
		ID2Label  map[string]string `json:"id2label"`
	}
	path := filepath.Join(dir, "model_index.json")
	if err := readJSON(path, &index); err != nil && exists(path) {
		w.note("no names of classes: %v", err)
		return
	} else if err != nil || index.ClassName != "DiTPipeline" {
		return
	}
	names := make([]string, w.Config.NumClasses)
	found := 0
	for i := range names {
		if name, ok := index.ID2Label[strconv.Itoa(i)]; ok {
			names[i] = name
			found++
		}
	}
	if found == len(names) {
		w.Classes = names
	}
	var process struct {
		BetaSchedule      string  `json:"beta_schedule"`
		BetaStart         float64 `json:"beta_start"`
		BetaEnd           float64 `json:"beta_end"`
		PredictionType    string  `json:"prediction_type"`
		NumTrainTimesteps int     `json:"num_train_timesteps"`
	}
	want := process
	want.BetaSchedule, want.BetaStart, want.BetaEnd, want.PredictionType, want.NumTrainTimesteps = "linear", 0.0001,
		0.02, "epsilon", 1000
	if process = want; readJSON(filepath.Join(dir, "scheduler", "scheduler_config.json"), &process) == nil &&
		process != want {
		w.note("the scheduler of the folder (%s betas %g to %g, %s, %d steps) is not that of DiT, which this "+
			"program samples with: its pictures will be wrong",
			process.BetaSchedule, process.BetaStart, process.BetaEnd, process.PredictionType, process.NumTrainTimesteps)
	}
	var vae struct {
		ScalingFactor *float64 `json:"scaling_factor"`
		NameOrPath    string   `json:"_name_or_path"`
	}
	if readJSON(filepath.Join(dir, "vae", "config.json"), &vae) == nil {
		if vae.ScalingFactor != nil {
			w.ScalingFactor = *vae.ScalingFactor
		}
		w.VAEName = filepath.Base(vae.NameOrPath)
		if vae.NameOrPath == "" {
			w.VAEName = ""
		}
	}
}

// PipelineVAE is the folder of the autoencoder that came with the weights in a diffusers pipeline, ""
// if there is none.
func (w *Weights) PipelineVAE() string {
	dir := filepath.Join(filepath.Dir(filepath.Dir(w.Path)), "vae")
	if w.Layout != "diffusers" || !exists(filepath.Join(dir, "config.json")) {
		return ""
	}
	return dir
}

// SaveOfficial writes the tensors to a .pt file that the original's strict loader takes.
func (w *Weights) SaveOfficial(path string) error {
	return checkpoint.WritePyTorch(path, append(checkpoint.From(w.Source), w.Kept...))
}

// Save writes the weights to a safetensors file of this program.
func (w *Weights) Save(path string) error {
	meta, err := w.Info.metadata()
	if err != nil {
		return err
	}
	return checkpoint.Write(path, append(checkpoint.From(w.Source), w.Kept...), meta)
}

// DiffusersNotes says what of the model a diffusers folder cannot hold.
func (w *Weights) DiffusersNotes() (notes []string) {
	notes = append(notes, "positions are left out: diffusers computes them")
	if w.Config.ClassDropoutProb == 0 {
		notes = append(notes, "the model has no null class: guidance in DiTPipeline would be towards the last class")
	} else if w.Config.NumClasses > 1000 {
		notes = append(notes, fmt.Sprintf(
			"the null class is %d: DiTPipeline takes class 1000 for it, so its guidance is wrong", w.Config.NumClasses))
	} else if w.Config.NumClasses < 1000 {
		notes = append(notes, fmt.Sprintf("the label table is filled up to 1000 classes, since DiTPipeline's null "+
			"class is 1000: ask for classes 0 to %d", w.Config.NumClasses-1))
	}
	if w.Config.TimestepFrequencyShift == 0 {
		notes = append(notes, "diffusers computes timestep frequencies a little differently: its pictures are not "+
			"those of ditrun or the original")
	}
	return notes
}

// fitsDiffusers returns an error unless DiTTransformer2DModel can be a model of this configuration.
func (c Config) fitsDiffusers() error {
	switch {
	case c.Block != AdaLNZero || c.Condition != OnClass:
		return fmt.Errorf("%s on %s: diffusers only has DiT with adaln-zero blocks on classes", c.Design(),
			c.Conditions())
	case c.Width() != c.InputSize:
		return fmt.Errorf("latents of %s: diffusers only has square ones", c.Size())
	case c.mlpHidden() != 4*c.HiddenSize:
		return fmt.Errorf("MLP ratio %v: diffusers only has models of ratio 4", c.MLPRatio)
	}
	return nil
}

// DiffusersBytes is about what SaveDiffusers writes: more than the weights, since the embedders stand in every block.
func (w *Weights) DiffusersBytes() (int64, error) {
	src, err := w.asDiffusers()
	if err != nil {
		return 0, err
	}
	return checkpoint.SizeOf(src), nil
}

// asDiffusers shows the tensors under diffusers' names.
func (w *Weights) asDiffusers() (checkpoint.Source, error) {
	c := w.Config
	if err := c.fitsDiffusers(); err != nil {
		return nil, err
	}
	return namemap.Map(w.Source, c.toDiffusers(), func(name string) bool { return name == posEmbed })
}

// SaveDiffusers writes a folder that diffusers' DiTPipeline.from_pretrained opens, but for the
// autoencoder, which the caller writes to its subfolder vae.
func (w *Weights) SaveDiffusers(dir string) error {
	c := w.Config
	src, err := w.asDiffusers()
	if err != nil {
		return err
	}
	meta, err := w.Info.metadata()
	if err != nil {
		return err
	}
	for _, sub := range []string{"transformer", "scheduler"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o777); err != nil {
			return err
		}
	}
	if err := checkpoint.Write(filepath.Join(dir, "transformer", "diffusion_pytorch_model.safetensors"),
		checkpoint.From(src), meta); err != nil {
		return err
	}
	norm := c.MLPNormEps
	if norm == 0 {
		norm = normEps
	}
	index := map[string]any{
		"_class_name": "DiTPipeline", "_diffusers_version": diffusersVersion,
		"scheduler":   []string{"diffusers", "DDIMScheduler"},
		"transformer": []string{"diffusers", "DiTTransformer2DModel"}, "vae": []string{"diffusers", "AutoencoderKL"},
	}
	if len(w.Classes) > 0 {
		names := map[string]string{}
		for i, name := range w.Classes {
			names[strconv.Itoa(i)] = name
		}
		index["id2label"] = names
	}
	for _, f := range []struct {
		name string
		v    any
	}{
		{"transformer/config.json", transformerConfig{
			ClassName: "DiTTransformer2DModel", ActivationFn: "gelu-approximate", AttentionBias: true,
			AttentionHeadDim: c.HiddenSize / c.NumHeads,
			InChannels:       c.InChannels, NormEps: norm, NormNumGroups: 32, NormType: "ada_norm_zero",
			NumAttentionHeads: c.NumHeads,
			NumEmbedsAdaNorm:  c.diffusersTableClasses(), NumLayers: c.Depth, OutChannels: c.OutChannels(),
			PatchSize:  c.PatchSize,
			SampleSize: c.InputSize, TimestepFrequencyShift: c.TimestepFrequencyShift,
		}},
		{"scheduler/scheduler_config.json", map[string]any{
			"_class_name": "DDIMScheduler", "_diffusers_version": diffusersVersion, "beta_end": 0.02,
			"beta_schedule": "linear", "beta_start": 0.0001,
			"clip_sample": false, "num_train_timesteps": 1000, "prediction_type": "epsilon", "set_alpha_to_one": true,
			"steps_offset": 0, "trained_betas": nil,
		}},
		{"model_index.json", index}, // last: it makes the folder a pipeline
	} {
		text, err := json.MarshalIndent(f.v, "", "  ")
		if err != nil {
			return err
		}
		err = disk.WriteFile(filepath.Join(dir, filepath.FromSlash(f.name)), func(out io.Writer) error {
			_, err := out.Write(append(text, '\n'))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// diffusersVersion is the release that the folders were opened with.
const diffusersVersion = "0.35.2"
