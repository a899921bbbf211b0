package main

import (
	"cmp"
	"fmt"
	"math"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/dit"
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
			Usage: "pictures a step, for the column \"training\""},
		&cli.StringFlag{Name: "precision", Destination: (*string)(&o.precision), Value: string(nn.FP32),
			Usage: "`TYPE`: type of the tokens in training: fp32, tf32 or bf16"},
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
	if o.imageSize.Height%pixelsPerLatent != 0 || o.imageSize.Width%pixelsPerLatent != 0 {
		return usagef("--image-size %s: want multiples of %d, the pixels that become one of the latent", o.imageSize,
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
			"one picture, which the paper calls Gflops; GFLOPs are twice as many, and a\n" +
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
	names, blocks := dit.Names(), dit.BlockKinds()
	if o.models != "" {
		names = strings.Split(o.models, ",")
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
	for _, name := range names {
		cfg, err := dit.Named(strings.TrimSpace(name))
		if err != nil {
			return ofFlag(err)
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
	width := len("model")
	for _, r := range rows {
		width = max(width, len(r.Model))
	}
	e.printf("%-*s  %-15s %13s %9s %9s %7s %10s %10s %10s", width, "model", "block", "parameters", "GMACs", "GFLOPs",
		"tokens", "state", "picture", "training")
	for _, r := range rows {
		e.printf("%-*s  %-15s %13s %9.2f %9.2f %7s %10s %10s %10s", width, r.Model, r.Block, format.Count(r.Params),
			r.GMACs, r.GFLOPs, format.Count(int64(r.Tokens)),
			format.Bytes(r.StateMemory), format.Bytes(r.ActivationMemory), format.Bytes(r.Memory))
	}
}
