package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/encode"
)

func encodeLatentsCommand() *cli.Command {
	return newCommand(spec{
		name:  "encode-latents",
		usage: "turn pictures into latents to train on",
		description: "Crops every picture to a square, encodes it and its mirror image, and\n" +
			"keeps the posteriors in checksummed shards. Started again after an\n" +
			"interrupt it makes what is missing; started twice it shares the work.",
		example: "ditrun encode-latents --data pictures --vae vae --out latents --image-size 256",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "data", Usage: "class folders with pictures, or IDX files, in `DIR`"},
			&cli.StringFlag{Name: "vae", Usage: "the autoencoder in `DIR`"},
			&cli.StringFlag{Name: "out", Usage: "write the latents into `DIR`"},
			&cli.IntFlag{Name: "image-size", DefaultText: "that of the autoencoder", Usage: "`PIXELS` a side of the square crops"},
			&cli.IntFlag{Name: "batch-size", Value: 32, Usage: "`N` pictures at a time"},
			&cli.IntFlag{Name: "num-workers", Value: 1, Usage: "goroutines that decode"},
			&cli.StringFlag{Name: "flip", Value: "both", Usage: "both keeps the latents of mirrored pictures too, none does not"},
			&cli.StringFlag{Name: "dtype", Value: "fp16", Usage: "of the stored latents: fp16 or fp32"},
		},
		run: runEncodeLatents,
	})
}

func runEncodeLatents(e *env) error {
	c := e.flags
	if err := e.require("data", "vae", "out"); err != nil {
		return err
	}
	if err := e.atLeast(0, "image-size"); err != nil {
		return err
	}
	if err := e.atLeast(1, "batch-size", "num-workers"); err != nil {
		return err
	}
	if err := e.oneOf("flip", "both", "none"); err != nil {
		return err
	}
	if err := e.oneOf("dtype", "fp16", "fp32"); err != nil {
		return err
	}
	if err := checkFolder(c.String("out")); err != nil {
		return err
	}
	if sameFolder(c.String("data"), c.String("out")) {
		return usagef("--out %s: holds the pictures, want a folder of its own", c.String("out"))
	}
	src, err := data.Open(c.String("data"))
	if err != nil {
		return err
	}
	defer src.Close()
	dev, err := e.openDevice()
	if err != nil {
		return err
	}
	model, err := vae.Open(c.String("vae"), dev)
	if err != nil {
		return withHint(err, "`ditrun train-vae` trains one; a diffusers folder such as stabilityai/sd-vae-ft-ema works too")
	}
	defer model.Close()
	size := c.Int("image-size")
	if size == 0 {
		size = model.Config().SampleSize
	}
	if err := model.Config().CheckImageSize(size); err != nil {
		return usageError{err}
	}
	e.printf("device  %s", describeDevice(dev))
	e.printf("data    %s: %s in %s, cropped to %d pixels", c.String("data"), plural(src.Len(), "picture"), plural(len(src.Classes()), "class"), size)

	began := time.Now()
	var bar *progress.Bar
	manifest, err := encode.Run(e.ctx, encode.Options{
		Source: src, VAE: model, VAEName: c.String("vae"), OutDir: c.String("out"), ImageSize: size, BatchSize: c.Int("batch-size"),
		NumWorkers: c.Int("num-workers"), Flip: c.String("flip"), DType: map[string]checkpoint.DType{"fp16": checkpoint.F16, "fp32": checkpoint.F32}[c.String("dtype")],
		Tool: "ditrun " + readVersion().Ditrun,
		OnProgress: func(done, total int) {
			if bar == nil {
				bar = e.progress("encode", "pictures", int64(total))
				bar.Start(int64(done))
				return
			}
			bar.Set(int64(done))
		},
	})
	if err != nil {
		if bar != nil {
			err = withHint(err, "whole shards are kept; the same command continues")
		}
		return err
	}
	bar.Finish()
	std := make([]string, len(manifest.Std))
	for i, v := range manifest.Std {
		std[i] = format.Rate(v * manifest.VAE.ScalingFactor)
	}
	e.printf("%s of %dx%dx%d in %s, standard deviation by channel after scaling: %s", plural(manifest.Dataset.Samples, "latent"),
		manifest.Channels, manifest.Height, manifest.Width, plural(len(manifest.Shards), "shard"), strings.Join(std, ", "))
	return e.result(map[string]any{"out": c.String("out"), "samples": manifest.Dataset.Samples, "shards": len(manifest.Shards), "seconds": time.Since(began).Seconds()})
}

// checkFolder refuses an output folder that cannot be made, before the work instead of after it.
func checkFolder(out string) error {
	for dir := filepath.Clean(out); ; dir = filepath.Dir(dir) {
		switch st, err := os.Stat(dir); {
		case err == nil && st.IsDir():
			return nil
		case err == nil:
			return fmt.Errorf("--out %s: %s is a file, want a folder", out, dir)
		case errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir), errors.Is(err, syscall.ENOTDIR):
		default:
			return fmt.Errorf("--out %s: %w", out, err)
		}
	}
}

func sameFolder(a, b string) bool {
	sa, err := os.Stat(a)
	sb, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(sa, sb)
}
