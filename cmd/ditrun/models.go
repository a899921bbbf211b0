package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/dit"
)

func modelsCommand() *cli.Command {
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
		flags: []cli.Flag{
			&cli.StringFlag{Name: "model", DefaultText: "the paper's twelve",
				Usage: "a `LIST` of names, as train --model takes"},
			&cli.StringFlag{Name: "block", DefaultText: "all four",
				Usage: "a `LIST` of in-context, cross-attention, adaln, adaln-zero"},
			&cli.StringFlag{Name: "condition", Value: "class",
				Usage: "class, text, text+class or none; text is CLIP's, 77x768"},
			imageSizeFlag("256", "`PIXELS` a side, or HEIGHTxWIDTH"),
			&cli.IntFlag{Name: "batch-size", Value: 1, Usage: "`N` pictures a step, for the column \"training\""},
			&cli.StringFlag{Name: "precision", Value: "fp32", Usage: "of the tokens in training: fp32, tf32 or bf16"},
		},
		run: runModels,
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

func runModels(e *env) error {
	c := e.flags
	if err := e.atLeast(1, "batch-size"); err != nil {
		return err
	}
	if err := e.oneOf("precision", "fp32", "tf32", "bf16"); err != nil {
		return err
	}
	size := e.imageSize(picture.Square(256))
	if size.Height%pixelsPerLatent != 0 || size.Width%pixelsPerLatent != 0 {
		return usagef("--image-size %s: want multiples of %d, the pixels that become one of the latent", size,
			pixelsPerLatent)
	}
	condition, err := dit.ParseCondition(c.String("condition"))
	if err != nil {
		return usageError{fmt.Errorf("--%w", err)} // it begins with condition
	}
	names, blocks := dit.Names(), dit.BlockKinds()
	if list := c.String("model"); list != "" {
		names = strings.Split(list, ",")
	}
	if list := c.String("block"); list != "" {
		blocks = nil
		for _, word := range strings.Split(list, ",") {
			b, err := dit.ParseBlock(word)
			if err != nil {
				return usageError{fmt.Errorf("--%w", err)} // it begins with block
			}
			blocks = append(blocks, b)
		}
	}
	bytesEach := 4
	if c.String("precision") == "bf16" {
		bytesEach = 2
	}
	rows := []modelRow{}
	for _, name := range names {
		for _, block := range blocks {
			cfg, err := dit.Named(strings.TrimSpace(name))
			if err != nil {
				return usageError{fmt.Errorf("--%w", err)} // it begins with model
			}
			cfg.SetInput(size.Height/pixelsPerLatent, size.Width/pixelsPerLatent)
			cfg.Block = block
			cfg.SetCondition(condition, cfg.NumClasses, clipWidth, clipLength)
			if err := cfg.Validate(); err != nil {
				return usagef("%s at --image-size %s: %v", name, size, err)
			}
			state, each := cfg.StateBytes(), cfg.ActivationBytes(bytesEach)
			memory := state + float64(c.Int("batch-size"))*each
			if memory > math.MaxInt64/2 {
				return usagef("%s at --image-size %s: takes %.1g bytes, more than this program can count", name, size,
					memory)
			}
			rows = append(rows, modelRow{
				Model: cfg.Name(), Block: block.String(), Condition: condition.String(), ImageSize: size.String(),
				Params: int64(cfg.NumParams()),
				GMACs:  cfg.MACs() / 1e9, GFLOPs: 2 * cfg.MACs() / 1e9, Tokens: cfg.NumTokens(),
				Memory: int64(memory), StateMemory: int64(state), ActivationMemory: int64(each),
			})
		}
	}
	printModels(e, rows)
	return e.result(rows)
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
