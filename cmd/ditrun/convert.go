package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/vae"
)

func convertCommand() *cli.Command {
	return newCommand(spec{
		name:  "convert",
		usage: "write a checkpoint or latents in the form of another program",
		description: "--to official is a .pt that facebookresearch/DiT loads, --to diffusers a\n" +
			"folder for DiTPipeline.from_pretrained, --to ditrun a safetensors file.\n" +
			"The numbers stay what they are, except where flags ask for another number\n" +
			"of classes, another image size, or a variance more or less. --latents\n" +
			"become those of fast-dit, lightningdit or edm2 (REPA), and the other way\n" +
			"round with --to ditrun; what a form does not keep is said.",
		example: "ditrun convert --ckpt results/000-DiT-XL-2 --to diffusers --vae vae --out dit-diffusers\n" +
			"ditrun convert --ckpt DiT-XL-2-256x256.pt --to ditrun --image-size 512 --out start.safetensors\n" +
			"ditrun convert --latents features --to ditrun --vae sd-vae-ft-ema --out latents",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "ckpt",
				Usage: "run folder, weight file (.safetensors, .pt) or diffusers folder at `PATH`"},
			&cli.StringFlag{Name: "latents", Usage: "instead of --ckpt: latents at `PATH`"},
			&cli.StringFlag{Name: "model", DefaultText: "as the file says",
				Usage: "`NAME`, for a .pt whose width is not the paper's"},
			&cli.StringFlag{Name: "to", Usage: "official, diffusers or ditrun; fast-dit, lightningdit, edm2 or ditrun"},
			&cli.StringFlag{Name: "out", Usage: "`PATH` of a .pt, a .safetensors, a .zip or a new folder"},
			&cli.StringFlag{Name: "vae", DefaultText: "the pipeline's",
				Usage: "autoencoder at `PATH`, for a diffusers folder"},
			&cli.IntFlag{Name: "num-classes", DefaultText: "as it is",
				Usage: "`N` classes; another number draws their embeddings anew"},
			imageSizeFlag("as it is", "`PIXELS` a side, or HEIGHTxWIDTH; positions are computed"),
			&cli.StringFlag{Name: "learn-sigma", DefaultText: "as it is",
				Usage: "`true` adds a variance, false drops it"},
			&cli.StringFlag{Name: "timestep-frequency-shift", DefaultText: "as it is",
				Usage: "`N`: 1 for weights that diffusers trained, else 0"},
			&cli.Uint64Flag{Name: "seed", Usage: "of embeddings or latents that are drawn"},
		},
		alone: true,
		run:   runConvert,
	})
}

// extensions of files by the value of --to; a folder has none.
var extensions = map[string]string{"official": ".pt", "diffusers": "", "ditrun": ".safetensors"}

func runConvert(e *env) error {
	c := e.flags
	if latents, err := convertsLatents(e); latents || err != nil {
		if err != nil {
			return err
		}
		return convertLatents(e)
	}
	if err := e.require("ckpt", "to", "out"); err != nil {
		return err
	}
	if err := e.oneOf("to", "official", "diffusers", "ditrun"); err != nil {
		return err
	}
	if err := e.atLeast(0, "num-classes"); err != nil {
		return err
	}
	to, out := c.String("to"), filepath.Clean(c.String("out"))
	if err := checkTarget(to, out); err != nil {
		return err
	}
	w, err := dit.Read(c.String("ckpt"), c.String("model"))
	if err != nil {
		return err
	}
	defer w.Close()
	e.printf("found   %s", w)
	notes, err := adaptAsAsked(e, w)
	if err != nil {
		return err
	}
	var encoder *vae.Weights
	if to == "diffusers" {
		path := c.String("vae")
		if path == "" {
			path = w.PipelineVAE()
		}
		if path == "" {
			return withHint(usagef("convert: a diffusers folder needs the autoencoder of the model's latents: --vae"),
				"`ditrun fetch sd-vae-ft-ema` gets that of the published models")
		}
		if encoder, err = vae.Read(path); err != nil {
			return err
		}
		defer encoder.Close()
		e.printf("vae     %s", encoder)
		encoder.Source = checkpoint.Until(e.ctx, encoder.Source)
		notes = append(notes, w.DiffusersNotes()...)
	}
	for _, n := range notes {
		e.printf("        %s", n)
	}
	w.Source = checkpoint.Until(e.ctx, w.Source)
	disk.Sweep(out)
	switch to {
	case "official":
		err = w.SaveOfficial(out)
	case "ditrun":
		err = w.Save(out)
	case "diffusers":
		err = disk.WriteFolder(out, func(dir string) error {
			if err := encoder.Save(filepath.Join(dir, "vae")); err != nil {
				return err
			}
			return w.SaveDiffusers(dir)
		})
	}
	if err != nil {
		return err
	}
	size, err := sizeOf(out)
	if err != nil {
		return err
	}
	e.printf("wrote   %s, %s", out, format.Bytes(size))
	return e.result(map[string]any{"out": out, "to": to, "model": w.Config.Name(), "found": w.String(), "notes": notes,
		"bytes": size})
}

// checkTarget refuses an output that does not fit its form, or exists as something else.
func checkTarget(to, out string) error {
	if want := extensions[to]; filepath.Ext(out) != want && to != "diffusers" {
		return usagef("--out %s: want a name that ends in %s, for --to %s", out, want, to)
	}
	if st, err := os.Stat(filepath.Dir(out)); err != nil || !st.IsDir() {
		return fmt.Errorf("--out %s: the folder %s does not exist", out, filepath.Dir(out))
	}
	if to != "diffusers" {
		return checkNoFolder(out)
	}
	switch entries, err := os.ReadDir(out); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("--out %s: exists and is not a folder", out)
	case len(entries) > 0:
		return fmt.Errorf("--out %s: the folder is not empty", out)
	}
	return nil
}

// checkNoFolder refuses the name of a file where a folder stands.
func checkNoFolder(out string) error {
	if st, err := os.Stat(out); err == nil && st.IsDir() {
		return fmt.Errorf("--out %s: is a folder, want a file", out)
	}
	return nil
}

// adaptAsAsked makes the changes that flags ask for, and returns what there is to say.
func adaptAsAsked(e *env, w *dit.Weights) (notes []string, err error) {
	c := e.flags
	ch := dit.Changes{NumClasses: c.Int("num-classes"), Seed: c.Uint64("seed")}
	if size := e.imageSize(picture.Size{}); size != (picture.Size{}) {
		pixels := w.ImageSize / w.Config.InputSize
		if pixels < 1 || size.Height%pixels != 0 || size.Width%pixels != 0 {
			return nil, usagef("--image-size %s: want a multiple of %d, the pixels that become one of the latent", size,
				max(pixels, 1))
		}
		ch.InputSize, ch.InputWidth = size.Height/pixels, size.Width/pixels
	}
	if text := c.String("learn-sigma"); text != "" {
		on, err := strconv.ParseBool(text)
		if err != nil {
			return nil, usagef("--learn-sigma %q: want true or false", text)
		}
		ch.LearnSigma = &on
	}
	notes = append(notes, w.Notes...)
	did, err := w.Adapt(ch)
	if err != nil {
		return nil, fmt.Errorf("convert %s: %w", c.String("ckpt"), err)
	}
	notes = append(notes, did...)
	switch text := c.String("timestep-frequency-shift"); text {
	case "":
	case "0":
		w.Config.TimestepFrequencyShift, w.Config.MLPNormEps = 0, 0
		notes = append(notes, "arithmetic of the original")
	case "1":
		w.Config = w.Config.WithDiffusersArithmetic(dit.DiffusersNormEps)
		notes = append(notes, "arithmetic of diffusers: timestep frequencies and the norm before the MLP")
	default:
		return nil, usagef("--timestep-frequency-shift %q: want 0 or 1", text)
	}
	if (w.Config.Block != dit.AdaLNZero || w.Config.Condition != dit.OnClass) && c.String("to") == "official" {
		notes = append(notes, "the original has adaln-zero blocks on classes alone: it will not load this file, "+
			"ditrun does")
	}
	if w.Config.TimestepFrequencyShift != 0 && c.String("to") == "official" {
		notes = append(notes, "a .pt does not say that the model has diffusers' arithmetic: the original will "+
			"compute something else")
	}
	return notes, nil
}

// sizeOf adds up the sizes of a file, or of all files in a folder.
func sizeOf(path string) (int64, error) {
	total := int64(0)
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			total += st.Size()
		}
		return err
	})
	return total, err
}
