package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/nn"
)

// modelsOptions are the flags of models.
type modelsOptions struct {
	models, blocks, condition string
	imageSize                 picture.Size
	batchSize                 int
	precision                 nn.Precision
}

func (o *modelsOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "model", Destination: &o.models, DefaultText: "the paper's twelve",
			Usage: "`LIST`: names that train --model takes, with commas between them"},
		&cli.StringFlag{Name: "block", Destination: &o.blocks, DefaultText: "all four",
			Usage: "`LIST`: some of in-context, cross-attention, adaln, adaln-zero"},
		&cli.StringFlag{Name: "condition", Destination: &o.condition, Value: "class",
			Usage: "`NAME`: class, text, text+class or none; text is CLIP's, 77x768"},
		imageSizeVar(&o.imageSize, "256", "pictures of `PIXELS` a side, or HEIGHTxWIDTH"),
		&cli.IntFlag{Name: "batch-size", Destination: &o.batchSize, Value: 1,
			Usage: "pictures a step, for the column \"total\""},
		&cli.StringFlag{Name: "precision", Destination: (*string)(&o.precision), Value: string(nn.FP32),
			Usage: "`TYPE`: type of matrix products in training: fp32, tf32 or bf16"},
	}
}

func (o *modelsOptions) check(func(string) bool) error {
	o.imageSize = cmp.Or(o.imageSize, picture.Square(256))
	if err := atLeast(1, "batch-size", o.batchSize); err != nil {
		return err
	}
	if err := o.precision.Validate(); err != nil {
		return ofFlag(err)
	}
	return checkLatentSize(o.imageSize)
}

// checkLatentSize returns a usage error unless pictures of a size have latents of an eighth of it.
func checkLatentSize(size picture.Size) error {
	if size.Height%pixelsPerLatent != 0 || size.Width%pixelsPerLatent != 0 {
		return usagef("--image-size %s: want multiples of %d, the pixels that become one of the latent", size,
			pixelsPerLatent)
	}
	return nil
}

func modelsCommand() *cli.Command {
	o := &modelsOptions{}
	return newCommand(spec{
		name:  "models",
		usage: "what models cost: parameters, arithmetic, memory",
		description: "One line a model and block, for latents of an eighth of the picture and\n" +
			"four channels. GMACs are 10^9 multiply-accumulates of one forward pass of\n" +
			"one picture, which the paper calls Gflops; FLOPs are twice as many, and a\n" +
			"training step takes three times those. \"state\" is weights, gradients, moments\n" +
			"and average in fp32, \"picture\" what training keeps of each picture besides.",
		example: "ditrun models --image-size 512 --block adaln-zero\n" +
			"ditrun models --model DiT-XL/2,DiT-192x6x6/2 --image-size 256x384 --json",
		flags: o.flags(),
		check: o.check,
		run:   func(e *env) error { return runModels(e, o) },
	})
}

// What the published models have, beside sizes: an autoencoder of 8 pixels a latent, and CLIP's captions.
const (
	pixelsPerLatent = 8
	clipLength      = 77
	clipWidth       = 768
)

// A modelRow is a model as --json has it. Memory is in bytes.
type modelRow struct {
	Model            string  `json:"model"`
	Block            string  `json:"block"`
	Condition        string  `json:"condition"`
	ImageSize        string  `json:"image_size"`
	Params           int64   `json:"params"`
	GMACs            float64 `json:"gmacs"`
	GFLOPs           float64 `json:"gflops"`
	Tokens           int     `json:"tokens"`
	Memory           int64   `json:"memory"` // of training: state, and activations of a batch
	StateMemory      int64   `json:"state_memory"`
	ActivationMemory int64   `json:"activation_memory"` // of one picture
}

func runModels(e *env, o *modelsOptions) error {
	condition, err := dit.ParseCondition(o.condition)
	if err != nil {
		return ofFlag(err)
	}
	models, blocks := dit.Names(), dit.BlockKinds()
	if o.models != "" {
		models = strings.Split(o.models, ",")
	}
	if o.blocks != "" {
		blocks = nil
		for _, word := range strings.Split(o.blocks, ",") {
			b, err := dit.ParseBlock(word)
			if err != nil {
				return ofFlag(err)
			}
			blocks = append(blocks, b)
		}
	}
	rows := []modelRow{}
	for _, name := range models {
		cfg, err := modelNamed(strings.TrimSpace(name))
		if err != nil {
			return err
		}
		cfg.SetInput(o.imageSize.Height/pixelsPerLatent, o.imageSize.Width/pixelsPerLatent)
		for _, cfg.Block = range blocks {
			cfg.SetCondition(condition, cfg.NumClasses, clipWidth, clipLength)
			row, err := o.row(cfg)
			if err != nil {
				return usagef("%s at --image-size %s: %v", name, o.imageSize, err)
			}
			rows = append(rows, row)
		}
	}
	printModels(e, rows)
	return e.result(rows)
}

// modelNamed returns the model that the value of --model names, with a usage error where there is none.
func modelNamed(name string) (dit.Config, error) {
	cfg, err := dit.Named(name)
	if near := nearModel(name); err != nil && near != "" {
		return cfg, withHint(ofFlag(err), "did you mean %s?", near)
	}
	return cfg, ofFlag(err)
}

// checkModel refuses a --model, which may be left out, that names no model.
func checkModel(name string) error {
	if name == "" {
		return nil
	}
	_, err := modelNamed(name)
	return err
}

// nearModel is the name of a model that a name of none may have been meant to be, "" for none known: XL/2, dit-xl-2.
func nearModel(name string) string {
	letters := func(name string) string {
		return strings.NewReplacer("dit", "", "/", "", "-", "", "_", "").Replace(strings.ToLower(name))
	}
	for _, known := range slices.Backward(dit.Names()) { // of those that differ in the patches, the usual one
		if l := letters(name); l != "" && strings.HasPrefix(letters(known), l) {
			return known
		}
	}
	if _, err := dit.Named("DiT-" + name); err == nil {
		return "DiT-" + name
	}
	return names.Nearest(name, dit.Names())
}

// row counts one model.
func (o *modelsOptions) row(cfg dit.Config) (modelRow, error) {
	if err := cfg.Validate(); err != nil {
		return modelRow{}, err
	}
	state, each := cfg.StateBytes(), cfg.ActivationBytes(o.precision.DType())
	memory := state + float64(o.batchSize)*each
	if memory > math.MaxInt64/2 {
		return modelRow{}, fmt.Errorf("takes %.1g bytes, more than this program can count", memory)
	}
	return modelRow{
		Model: cfg.Name(), Block: cfg.Block.String(), Condition: cfg.Condition.String(),
		ImageSize: o.imageSize.String(),
		Params:    int64(cfg.NumParams()), GMACs: cfg.MACs() / 1e9, GFLOPs: 2 * cfg.MACs() / 1e9,
		Tokens: cfg.NumTokens(),
		Memory: int64(memory), StateMemory: int64(state), ActivationMemory: int64(each),
	}, nil
}

func printModels(e *env, rows []modelRow) {
	lines := [][]string{{"model", "block", "parameters", "GMACs", "tokens", "state", "picture", "total"}}
	for _, r := range rows {
		lines = append(lines, []string{r.Model, r.Block, format.Count(r.Params), fmt.Sprintf("%.2f", r.GMACs),
			format.Count(int64(r.Tokens)), format.Bytes(r.StateMemory), format.Bytes(r.ActivationMemory),
			format.Bytes(r.Memory)})
	}
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, line := range lines {
		text := fmt.Sprintf("%-*s  %-*s", widths[0], line[0], widths[1], line[1])
		for i := 2; i < len(line); i++ {
			gap := 2
			if i == 3 || i == 4 { // of all eight only numbers without units, so that a line fits
				gap = 1
			}
			text += fmt.Sprintf("%*s", gap+widths[i], line[i])
		}
		e.printf("%s", text)
	}
}
