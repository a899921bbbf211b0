package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
)

func sampleCommand() *cli.Command {
	return newCommand(spec{
		name:  "sample",
		usage: "draw pictures from a checkpoint",
		description: "Samples the averaged weights of a checkpoint with classifier-free\n" +
			"guidance. --out PICTURE.png is one sheet with all pictures, a class a row\n" +
			"where the number allows; --out DIR is a folder of single pictures with\n" +
			"their labels or prompts in labels.csv; --out FILE.npz holds the pixels\n" +
			"(arr_0) and the labels (arr_1). Models of text take --prompt.\n" +
			"A word of --class-labels is a number, a name, or whole words of one name;\n" +
			"label:2 and name:2 say which is meant. `ditrun classes` lists them.",
		example: "ditrun sample --ckpt results/000-DiT-XL-2 --vae vae --cfg-scale 4.0\n" +
			"ditrun sample --ckpt ema.safetensors --vae vae --class-labels 207,360 --num-samples 8 --out dogs.png\n" +
			"ditrun sample --ckpt results/001-DiT-S-2 --vae vae --text-encoder clip --prompt 'a red shoe' " +
			"--num-samples 4",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "ckpt",
				Usage: "run folder, weight file (.safetensors, .pt) or diffusers folder at `PATH`"},
			&cli.StringFlag{Name: "model", DefaultText: "as the file says",
				Usage: "`NAME`, for a .pt of a width that is not the paper's"},
			&cli.StringFlag{Name: "vae", DefaultText: "the pipeline's",
				Usage: "the autoencoder in `DIR` that made the latents"},
			&cli.GenericFlag{Name: "class-labels", Value: &textList{}, DefaultText: "all, at most 20",
				Usage: "numbers or names as in `LIST` 3,7,cat, repeatable"},
			&cli.GenericFlag{Name: "prompt", Value: &textList{}, DefaultText: "none",
				Usage: "`TEXT` to draw, repeatable, for models of text"},
			&cli.StringFlag{Name: "negative-prompt", DefaultText: "the empty one", Usage: "`TEXT` to lead away from"},
			&cli.StringFlag{Name: "text-encoder", Usage: "the CLIP text encoder in `DIR` that encoded the captions"},
			&cli.StringFlag{Name: "text-states", Usage: "prompts by another program: their token states in `FILE`"},
			&cli.IntFlag{Name: "num-samples", DefaultText: "one a class or prompt",
				Usage: "`N` pictures, spread over them in order"},
			&cli.Float64Flag{Name: "cfg-scale", Value: 4.0,
				Usage: "guidance: 1 is none; more obeys the class and varies less"},
			&cli.StringFlag{Name: "cfg-channels", Value: "3",
				Usage: "guide 3 latent channels, as the original, or all"},
			&cli.StringFlag{Name: "num-sampling-steps", Value: "250",
				Usage: "a number, ddimN, or counts by section as in `STEPS` 10,15,20"},
			&cli.StringFlag{Name: "sampler", Value: "ddpm", Usage: "ddpm or ddim"},
			&cli.Uint64Flag{Name: "seed", Usage: "of the noise"},
			&cli.StringFlag{Name: "rng", Value: "image",
				Usage: "noise by picture (image) or in the original's order (torch)"},
			&cli.IntFlag{Name: "batch-size", DefaultText: "at most 50; all with --rng torch",
				Usage: "`N` pictures at a time"},
			&cli.StringFlag{Name: "out", Value: "sample.png", Usage: "`PATH` of a .png, a .npz or a folder"},
		},
		alone: true,
		run:   runSample,
	})
}

const defaultSampleBatch = 50

// maxSamples is above any data set, and bounds the lists of labels and prompts.
const maxSamples = 10_000_000

func runSample(e *env) error {
	c := e.flags
	if err := e.require("ckpt", "out"); err != nil {
		return err
	}
	if v := c.Float64("cfg-scale"); !(v >= 1) {
		return usagef("--cfg-scale %g: want a number from 1 (no guidance) up", v)
	} else if v > 1e6 {
		return usagef("--cfg-scale %g: want at most 1000000", v)
	} else if c.IsSet("negative-prompt") && v == 1 {
		return usagef("--negative-prompt: has no effect without guidance, --cfg-scale 1")
	}
	guided, err := dit.ParseGuidedChannels(c.String("cfg-channels"))
	if err != nil {
		return usagef("--cfg-channels %q: want 3 or all", c.String("cfg-channels"))
	}
	process, err := diffusion.New(c.String("num-sampling-steps"))
	if err != nil {
		return usageError{fmt.Errorf("--%w", err)} // it begins with num-sampling-steps
	}
	if _, err := diffusion.ParseSampler(c.String("sampler")); err != nil {
		return usageError{fmt.Errorf("--%w", err)} // it begins with sampler
	}
	if err := e.oneOf("rng", "image", "torch"); err != nil {
		return err
	}
	if err := e.atLeast(0, "batch-size"); err != nil {
		return err
	}
	if c.IsSet("num-samples") {
		if err := e.atLeast(1, "num-samples"); err != nil {
			return err
		}
	}
	if err := checkOut(c.String("out")); err != nil {
		return err
	}
	dev, err := e.openDevice()
	if err != nil {
		return err
	}
	p, err := sampling.Open(dev, c.String("ckpt"), c.String("vae"), c.String("model"))
	if errors.Is(err, sampling.ErrNoVAE) {
		return withHint(err, "give the autoencoder of its latents with --vae; `ditrun fetch sd-vae-ft-ema` gets "+
			"that of the published models")
	}
	if err != nil {
		return err
	}
	defer p.Close()
	info := p.Info()
	what, err := e.parseCondition(info)
	if err != nil {
		return err
	}
	n := what.len()
	if c.IsSet("num-samples") {
		n = c.Int("num-samples")
	}
	what = what.spread(n)
	r := sampling.Request{CFGScale: c.Float64("cfg-scale"), Guided: guided, Steps: c.String("num-sampling-steps"),
		Sampler: c.String("sampler"),
		Seed:    c.Uint64("seed"), RNG: c.String("rng"), BatchSize: c.Int("batch-size")}
	r.Labels = what.labels
	if info.Config.Condition == dit.OnNothing {
		if r.NumSamples = n; !c.IsSet("cfg-scale") {
			r.CFGScale = 1
		}
	}
	if info.Config.HasText() {
		if r.Captions, r.Null, err = e.encodePrompts(info, what.prompts, dev); err != nil {
			return err
		}
	}
	if r.BatchSize == 0 && r.RNG == "image" {
		r.BatchSize = defaultSampleBatch
	}
	if r.RNG == "torch" && r.BatchSize > 0 && r.BatchSize < n {
		return usagef("--batch-size %d: with rng torch all %s are drawn at once, as the original does", r.BatchSize,
			plural(n, "picture"))
	}
	r.BatchSize = min(r.BatchSize, n)
	e.printf("device  %s", describeDevice(dev))
	found, notes := p.Found()
	e.printf("model   %s", found)
	for _, note := range notes {
		e.printf("        %s", note)
	}
	height, width := p.PictureSize()
	size := sampleSize{n, height, width}
	key := func() (string, error) { return p.Key(r) }
	out, err := e.openSampleOutput(size, cmp.Or(r.BatchSize, n), what, info.Classes, key)
	if err != nil {
		return err
	}
	e.describeOutput(size)
	began := time.Now()
	drawn, err := e.drawSamples(p, r, n, process.Len(), out)
	if err == nil {
		err = out.finish()
	}
	if kept := out.close(); kept > 0 {
		return withHint(err, "%d of %s are kept; the same command continues", kept, plural(n, "picture"))
	}
	if err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	rate := float64(drawn) / seconds
	e.printf("%s in %.1f s, %s images/s, written to %s", plural(n, "picture"), seconds, format.Rate(rate),
		c.String("out"))
	return e.result(map[string]any{"out": c.String("out"), "num_samples": n, "seconds": seconds,
		"images_per_second": rate,
		"model":             info.Config.Name()})
}

// drawSamples draws those of n pictures that the output does not have, in so many steps each, and returns their number.
func (e *env) drawSamples(p *sampling.Pipeline, r sampling.Request, n, steps int, out sampleOutput) (int, error) {
	have := out.have()
	if have > 0 {
		e.printf("%s of %s are there already", format.Count(int64(have)), plural(n, "picture"))
	}
	if have == n {
		return 0, nil
	}
	batch := cmp.Or(r.BatchSize, n)
	before := have / batch * steps
	bar := e.progress("sample", "steps", int64((n+batch-1)/batch*steps))
	if before > 0 {
		bar.Start(int64(before))
	}
	r.Progress = func(done, _ int) { bar.Set(int64(before + done)) }
	for made, err := range p.Batches(e.ctx, r.After(have)) {
		if err == nil {
			err = out.add(made)
		}
		if err != nil {
			return 0, err
		}
	}
	bar.Finish()
	return n - have, nil
}

// largeOutput is from how many bytes of pictures on their size is worth a line.
const largeOutput = 256 << 20

// describeOutput says what much work will take: memory for a sheet, room on the disk for the others.
func (e *env) describeOutput(size sampleSize) {
	out, bytes := e.flags.String("out"), size.bytes()
	if bytes < largeOutput {
		return
	}
	if filepath.Ext(out) == ".png" {
		e.printf("output  a sheet takes more than %s of memory; a folder or an .npz takes none", format.Bytes(2*bytes))
		return
	}
	about := "up to"
	if filepath.Ext(out) == ".npz" {
		about = "takes"
	}
	free := disk.Free(filepath.Dir(out))
	if free < 0 {
		e.printf("output  %s %s", about, format.Bytes(bytes))
		return
	}
	e.printf("output  %s %s, %s are free", about, format.Bytes(bytes), format.Bytes(free))
	if free < bytes {
		e.warn("--out %s: %s of pictures where %s are free; what is drawn until the disk is full is kept",
			out, format.Bytes(bytes), format.Bytes(free))
	}
}

// otherPictures are endings that nobody gives to a folder.
var otherPictures = []string{".png", ".npz", ".npy", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"}

// checkOut refuses an output that cannot be written, before the work instead of after it, and removes what killed
// commands left of it.
func checkOut(out string) error {
	if st, err := os.Stat(filepath.Dir(out)); err != nil || !st.IsDir() {
		return fmt.Errorf("--out %s: the folder %s does not exist", out, filepath.Dir(out))
	}
	sweepPartials(out)
	disk.Sweep(filepath.Clean(out))
	switch ext := strings.ToLower(filepath.Ext(out)); {
	case filepath.Ext(out) == ".png", filepath.Ext(out) == ".npz":
		if err := checkNoFolder(out); err != nil {
			return err
		}
		return disk.Try(out)
	case slices.Contains(otherPictures, ext):
		return usagef("--out %s: want a name that ends in .png or .npz, or a folder", out)
	}
	switch entries, err := os.ReadDir(out); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return withHint(fmt.Errorf("--out %s: exists and is not a folder", out),
			"a single sheet is written to a name that ends in .png")
	case len(entries) > 0:
		return fmt.Errorf("--out %s: the folder is not empty", out)
	}
	return disk.Try(out)
}
