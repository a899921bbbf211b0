package dit

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// infer reads the configuration off the shapes of published tensors and off what the training script
// kept beside them.
func (w *Weights) infer(src checkpoint.Source, model string) error {
	w.Layout = "DiT"
	c := XL2
	shape := func(name string, rank int) ([]int64, error) {
		info, ok := src.Lookup(name)
		if !ok {
			return nil, fmt.Errorf("tensor %s is missing", name)
		}
		if len(info.Shape) != rank ||
			slices.ContainsFunc(info.Shape, func(d int64) bool { return d < 1 || d > 1<<24 }) {
			return nil, fmt.Errorf("tensor %s has shape %v, want %d positive dimensions", name, info.Shape, rank)
		}
		return info.Shape, nil
	}
	if _, ok := src.Lookup("blocks.0.mlp.w12.weight"); ok {
		return fmt.Errorf("blocks.0.mlp.w12.weight: a model with SwiGLU blocks (LightningDiT), which this program " +
			"does not have")
	}
	patch, err := shape("x_embedder.proj.weight", 4)
	if err != nil {
		return err
	}
	fc1, err := shape("blocks.0.mlp.fc1.weight", 2)
	if err != nil {
		return err
	}
	out, err := shape("final_layer.linear.weight", 2)
	if err != nil {
		return err
	}
	c.HiddenSize, c.InChannels, c.PatchSize = int(patch[0]), int(patch[1]), int(patch[2])
	c.MLPRatio = float64(fc1[0]) / float64(c.HiddenSize)
	for c.Depth = 0; ; c.Depth++ {
		if _, ok := src.Lookup(fmt.Sprintf("blocks.%d.attn.qkv.weight", c.Depth)); !ok {
			break
		}
	}
	if err := w.inferCondition(&c, src, shape); err != nil {
		return err
	}
	inferBlock(&c, src)
	c.LearnSigma = out[0] == int64(2*c.InChannels*c.PatchSize*c.PatchSize)
	args := w.arguments()
	w.inferFamily(src, args)
	if err := w.inferProcess(args); err != nil {
		return err
	}
	if err := w.inferHeads(&c, args, model); err != nil {
		return err
	}
	if k, err := strconv.Atoi(args["num_classes"]); err == nil && c.HasClass() && k == c.NumClasses+1 {
		c.NumClasses, c.ClassDropoutProb = k, 0
	}
	if err := w.inferSize(&c, src, args); err != nil {
		return err
	}
	switch args["vae"] {
	case "ema", "mse":
		w.VAEName = "sd-vae-ft-" + args["vae"]
	}
	if n, err := w.optimizerStep(1); err == nil && n > 0 && n < 1e9 {
		w.Step = int(n)
	}
	w.Config = c
	return c.Validate()
}

// inferBlock tells the kind of blocks by the names and shapes of the tensors of the first one: that of the design
// that has exactly these. Where none has, the comparison of the tensors with the configuration says what differs.
func inferBlock(c *Config, src checkpoint.Source) {
	found := map[string][]int64{}
	for _, t := range src.Tensors() {
		if name, ok := strings.CutPrefix(t.Name, firstBlock); ok {
			found[name] = t.Shape
		}
	}
	for _, d := range blocks {
		listed := map[string][]int64{}
		for _, p := range nn.List(d.New(torch.Shapes(), *c)) {
			listed[p.Name] = nn.Shape(p.Tensor)
		}
		if maps.EqualFunc(found, listed, slices.Equal) {
			c.Block = d.Kind
			return
		}
	}
}

// clipLength is the number of tokens of CLIP's captions, which the tensors of a model do not tell.
const clipLength = 77

// inferCondition tells what the model is conditioned on by its embedders.
func (w *Weights) inferCondition(c *Config, src checkpoint.Source, shape func(string, int) ([]int64, error)) error {
	const textLayer = "text_embedder.fc1.weight"
	_, class := src.Lookup(labelTable)
	_, text := src.Lookup(textLayer)
	c.NumClasses = 0
	switch {
	case class && text:
		c.Condition = OnTextAndClass
	case text:
		c.Condition = OnText
	case !class:
		c.Condition, c.ClassDropoutProb = OnNothing, 0
		w.note("taken for a model without condition: there is no %s", labelTable)
	}
	if class {
		table, err := shape(labelTable, 2)
		if err != nil {
			return err
		}
		c.NumClasses = int(table[0]) - 1
	}
	if text {
		fc1, err := shape(textLayer, 2)
		if err != nil {
			return err
		}
		c.TextWidth, c.TextLength = int(fc1[1]), clipLength
		w.note("taken for a model of captions of %d tokens: the file does not say", clipLength)
	}
	return nil
}

// arguments are the command line of the training script, where the file keeps it.
func (w *Weights) arguments() map[string]string {
	args := map[string]string{}
	for _, v := range w.file.Values() {
		if name, ok := strings.CutPrefix(v.Name, "args."); ok {
			args[name] = fmt.Sprint(v.Value)
		}
	}
	return args
}

// inferFamily tells SiT and REPA, whose tensors are those of DiT, by what is kept beside them, and by
// the name of the file where nothing is.
func (w *Weights) inferFamily(src checkpoint.Source, args map[string]string) {
	_, projectors := src.Lookup(firstProjector)
	w.Family = familyOf(w.Path, projectors, args)
	if w.Family == "" {
		return
	}
	w.Layout = w.Family
	if _, path := args["path_type"]; !projectors && !path {
		w.note("taken for a SiT by its name: its tensors are those of a DiT")
	}
}

// familyOf is the family of the file at path, "" for DiT.
func familyOf(path string, projectors bool, args map[string]string) string {
	_, trained := args["path_type"]
	switch {
	case projectors, trained && args["enc_type"] != "":
		return REPA
	case trained, strings.Contains(filepath.Base(path), "SiT"):
		return SiT
	}
	return ""
}

func (w *Weights) inferHeads(c *Config, args map[string]string, model string) error {
	for _, name := range []string{model, strings.Replace(args["model"], "SiT-", "DiT-", 1)} {
		if name == "" {
			continue
		}
		named, err := Named(name)
		if err != nil {
			if name == model {
				return err
			}
			continue
		}
		if named.HiddenSize != c.HiddenSize || named.Depth != c.Depth || named.PatchSize != c.PatchSize {
			return fmt.Errorf("%s has width %d, depth %d, patches of %d; the tensors have %d, %d, %d", name,
				named.HiddenSize, named.Depth, named.PatchSize, c.HiddenSize, c.Depth, c.PatchSize)
		}
		c.NumHeads = named.NumHeads
		return nil
	}
	for _, s := range sizes {
		if s.hidden == c.HiddenSize {
			c.NumHeads = s.heads
			return nil
		}
	}
	return fmt.Errorf("width %d is none of the paper's, and the file does not hold the number of heads: name the "+
		"model, as in --model DiT-%dx%dxHEADS/%d", c.HiddenSize, c.HiddenSize, c.Depth, c.PatchSize)
}

func (w *Weights) inferSize(c *Config, src checkpoint.Source, args map[string]string) error {
	if pos, ok := src.Lookup(posEmbed); ok {
		if len(pos.Shape) != 3 || pos.Shape[1] < 1 || pos.Shape[1] > 1<<30 {
			return fmt.Errorf("tensor %s has shape %v, want [1, tokens, width]", posEmbed, pos.Shape)
		}
		grid := int64(math.Round(math.Sqrt(float64(pos.Shape[1]))))
		if grid*grid != pos.Shape[1] {
			return fmt.Errorf("tensor %s has %d tokens, which is no square", posEmbed, pos.Shape[1])
		}
		c.InputSize = int(grid) * c.PatchSize
	} else if size, err := strconv.Atoi(args["image_size"]); err == nil && size > 0 {
		c.InputSize = size / downsampling
	} else {
		w.note("taken for a model of latents of %d: the file does not say", c.InputSize)
	}
	w.ImageSize = c.InputSize * downsampling
	return nil
}
