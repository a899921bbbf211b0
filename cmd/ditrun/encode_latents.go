package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/sheet"
	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/encode"
)

func encodeLatentsCommand() *cli.Command {
	return newCommand(spec{
		name:  "encode-latents",
		usage: "turn pictures into latents to train on",
		description: "Crops every picture to one size, encodes it and its mirror image, and\n" +
			"keeps the posteriors in checksummed shards. Started again after an\n" +
			"interrupt it makes what is missing; started several times, by hand, by\n" +
			"torchrun or by Slurm, it shares the work. The pictures may be class\n" +
			"folders, tar archives, parquet or IDX files, here or at s3://.\n" +
			"With --captions the set gets their token states too; without --vae they\n" +
			"are added to latents that are there.",
		example: "ditrun encode-latents --data pictures --vae vae --out latents --image-size 256",
		flags: append([]cli.Flag{
			&cli.StringFlag{Name: "data",
				Usage: "pictures at `PATH`: a folder, an archive, a pattern, or s3://bucket/key"},
			&cli.StringFlag{Name: "labels", Usage: "classes of pictures that are in no class folder, from `FILE`"},
			&cli.StringFlag{Name: "vae", Usage: "the autoencoder at `PATH`"},
			&cli.StringFlag{Name: "out", Usage: "write the latents into `DIR`"},
			imageSizeFlag("that of the autoencoder", "`PIXELS` a side of the crops, or HEIGHTxWIDTH"),
			&cli.IntFlag{Name: "batch-size", Value: 32, Usage: "`N` pictures at a time"},
			&cli.IntFlag{Name: "num-workers", DefaultText: "1 on a CPU, else the cores less one",
				Usage: "`N` goroutines that decode pictures"},
			&cli.StringFlag{Name: "flip", Value: "both",
				Usage: "both keeps the latents of mirrored pictures too, none does not"},
			&cli.StringFlag{Name: "dtype", Value: "fp16", Usage: "of the stored latents: fp16 or fp32"},
			&cli.StringFlag{Name: "precision", DefaultText: "tf32 on CUDA, else fp32",
				Usage: "of the encoder: fp32, tf32, bf16 or fp16"},
			&cli.StringFlag{Name: "resampler", Value: string(picture.PillowClassic),
				Usage: "whose crop: pillow-classic, as DiT, pillow13 or imaging"},
			orientationFlag("exif turns pictures upright, as-stored leaves them"),
			onErrorFlag("fail names all bad pictures and ends, skip leaves them out"),
			&cli.IntFlag{Name: "preview", DefaultText: "none",
				Usage: "first draw `N` of the crops into preview.png of --out"},
			&cli.BoolFlag{Name: "verify", DisableDefaultText: true,
				Usage: "only read the latents in --out and compare their checksums"},
		}, captionFlags()...),
		run: runEncodeLatents,
	})
}

func runEncodeLatents(e *env) error {
	c := e.flags
	if c.Bool("verify") {
		return verifyLatents(e)
	}
	specs, err := e.captionSpecs()
	if err != nil {
		return err
	}
	if len(specs) > 0 && c.String("vae") == "" {
		if err := e.require("out"); err != nil {
			return err
		}
		return addCaptions(e, specs)
	}
	if err := e.require("data", "vae", "out"); err != nil {
		return err
	}
	if err := e.atLeast(0, "num-workers", "preview"); err != nil {
		return err
	}
	if err := e.atLeast(1, "batch-size"); err != nil {
		return err
	}
	for _, choices := range [][]string{
		{"flip", "both", "none"}, {"dtype", "fp16", "fp32"}, {"precision", "", "fp32", "tf32", "bf16", "fp16"},
		{"resampler", string(picture.PillowClassic), string(picture.Pillow13), string(picture.Imaging)},
	} {
		if err := e.oneOf(choices[0], choices[1:]...); err != nil {
			return err
		}
	}
	if err := e.pictureChoices(); err != nil {
		return err
	}
	process, err := dist.Detect(os.Getenv)
	if err != nil {
		return usageError{err}
	}
	if err := checkFolder(c.String("out")); err != nil {
		return err
	}
	if err := outsideOf(c.String("data"), "out", c.String("out")); err != nil {
		return err
	}
	src, err := e.openPictures(c.String("data"), c.String("labels"), e.orientation())
	if err != nil {
		return err
	}
	defer src.Close()
	dev, err := e.openDeviceOf(process)
	if err != nil {
		return err
	}
	model, err := vae.Open(c.String("vae"), dev)
	if err != nil {
		return withHint(err, "`ditrun train-vae` trains one; a diffusers folder such as stabilityai/sd-vae-ft-ema "+
			"works too")
	}
	defer model.Close()
	var k *captioning
	if len(specs) > 0 && process.Rank == 0 {
		captions, err := captions.Read(e.ctx, specs, src)
		if err != nil {
			return err
		}
		if k, err = e.openCaptions(captions, func() (torch.Device, error) { return dev, nil }); err != nil {
			return err
		}
		defer k.close()
	}
	size := e.imageSize(picture.Square(model.Config().SampleSize))
	if err := model.Config().CheckImageSize(size.Height, size.Width); err != nil {
		return usageError{err}
	}
	precision, workers := c.String("precision"), c.Int("num-workers")
	if precision == "" {
		precision = "fp32"
		if dev.IsCUDA() {
			precision = "tf32"
		}
	}
	if workers == 0 {
		workers = 1
		if dev.IsCUDA() {
			workers = max(1, runtime.GOMAXPROCS(0)-1)
		}
	}
	o := encode.Options{
		Source: src, VAE: model, VAEName: c.String("vae"), OutDir: c.String("out"), ImageSize: size,
		BatchSize:  c.Int("batch-size"),
		NumWorkers: workers, Flip: c.String("flip"),
		DType:     map[string]checkpoint.DType{"fp16": checkpoint.F16, "fp32": checkpoint.F32}[c.String("dtype")],
		Precision: precision, Resampler: picture.Resampler(c.String("resampler")), OnError: c.String("on-error"),
		Rank: process.Rank, World: process.World,
		Tool: "ditrun " + readVersion().Ditrun,
	}
	o.Unlocked = e.unlocked(o.OutDir, process.World)
	e.printf("device  %s, %s, %s", describeDevice(dev), precision, plural(workers, "decoder"))
	e.printf("data    %s: %s in %s, cropped to %s pixels", c.String("data"), plural(src.Len(), "picture"),
		plural(len(src.Classes()), "class"), size)
	if process.World > 1 {
		e.printf("process %d of %d", process.Rank, process.World)
	}
	if n := c.Int("preview"); n > 0 && process.Rank == 0 {
		if err := e.previewCrops(src, n, size, o.Resampler, c.String("out")); err != nil {
			return err
		}
	}
	began := time.Now()
	var bar *progress.Bar
	wait := -1.0 // smoothed
	bad, clipped, oriented := 0, 0, 0
	o.OnBad = func(b catalog.Bad) {
		bad++
		switch { // with fail the error at the end names them
		case o.OnError == "fail" || bad > catalog.MaxListed+1:
		case bad == catalog.MaxListed+1:
			e.warn("left out: more bad pictures, which %s will list", latents.ManifestName)
		default:
			e.warn("left out: %v", b.Err)
		}
	}
	o.OnProgress = func(p encode.Progress) {
		if p.Done == p.Total && bar == nil {
			e.printf("nothing is left to encode")
			return
		}
		if bar == nil {
			bar = e.progress("encode", "pictures", int64(p.Total))
			bar.Start(int64(p.Done))
			return
		}
		clipped, oriented = p.Clipped, p.Oriented
		note := "waits for shards of other processes"
		if !p.Others {
			if wait += 0.1 * (p.WaitShare - wait); wait < 0 {
				wait = p.WaitShare
			}
			note = fmt.Sprintf("encoder waits %.0f %%", 100*wait)
		}
		if p.Overflows > 0 {
			note += fmt.Sprintf(", %s past fp16", plural(p.Overflows, "batch"))
		}
		if bad > 0 {
			note += fmt.Sprintf(", %s", plural(bad, "bad picture"))
		}
		bar.Describe(note)
		bar.Set(int64(p.Done))
	}
	manifest, err := encode.Run(e.ctx, o)
	if err != nil {
		switch {
		case errors.As(err, new(*catalog.BadPicturesError)):
			err = badPictures(err, "--on-error skip leaves them out; shards without them are kept")
		case bar != nil && !errors.As(err, new(hintError)):
			err = e.continues(err, "whole shards are kept")
		}
		return err
	}
	if bar != nil {
		bar.Finish()
	}
	if wait > 0.3 {
		e.printf("the encoder waited %.0f %% of the time for pictures: more --num-workers or a faster disk would help",
			100*wait)
	}
	e.remark(clipped, oriented)
	std := make([]string, len(manifest.Std))
	for i, v := range manifest.Std {
		std[i] = format.Rate(v * manifest.VAE.ScalingFactor)
	}
	if n := len(manifest.Skipped); n > 0 {
		e.warn("%s left out: %s lists them", plural(n, "bad picture"),
			filepath.Join(c.String("out"), latents.ManifestName))
		ids := make([]int, n)
		for i, s := range manifest.Skipped {
			ids[i] = s.ID
		}
		e.warnOfEmptied(src, ids)
	}
	e.printf("%s of %dx%dx%d in %s, standard deviation by channel after scaling: %s",
		plural(manifest.Dataset.Samples-len(manifest.Skipped), "latent"),
		manifest.Channels, manifest.Height, manifest.Width, plural(len(manifest.Shards), "shard"),
		strings.Join(std, ", "))
	result := map[string]any{}
	if k != nil {
		if result, err = k.store(e, c.String("out")); err != nil {
			return err
		}
	}
	maps.Copy(result, map[string]any{"out": c.String("out"),
		"samples": manifest.Dataset.Samples - len(manifest.Skipped), "skipped": len(manifest.Skipped),
		"shards": len(manifest.Shards), "seconds": time.Since(began).Seconds()})
	return e.result(result)
}

// unlocked makes what is called where the file system of dir has no locks: one process goes on, several of one job
// cannot know what the others do.
func (e *env) unlocked(dir string, world int) func() error {
	return func() error {
		if world > 1 {
			return withHint(fmt.Errorf("%s: the file system has no locks, by which %d processes share the work", dir,
				world),
				"start one process, or give a folder on another file system: NFS and Lustre have locks where they "+
					"are mounted with them")
		}
		e.warn("%s: the file system has no locks: start no other process that writes there", dir)
		return nil
	}
}

// verifyLatents reads a finished set and compares it with its manifest.
func verifyLatents(e *env) error {
	if err := e.require("out"); err != nil {
		return err
	}
	out := e.flags.String("out")
	l, err := latents.Open(out)
	if err != nil {
		return err
	}
	defer l.Close()
	began := time.Now()
	if err := l.Verify(e.ctx, "sha256"); err != nil {
		return err
	}
	bytes := int64(0)
	for _, s := range l.Manifest().Shards {
		bytes += s.Bytes
	}
	text, err := verifyText(e, l, out)
	if err != nil {
		return err
	}
	bytes += text
	seconds := time.Since(began).Seconds()
	e.printf("%s: %s in %s, %s: every checksum is right", out, plural(l.Len(), "latent"),
		plural(len(l.Manifest().Shards), "shard"), format.Bytes(bytes))
	return e.result(map[string]any{"out": out, "samples": l.Len(), "shards": len(l.Manifest().Shards), "bytes": bytes,
		"seconds": seconds})
}

// previewCrops draws crops from all over the data set, with the names of their classes.
func (e *env) previewCrops(src catalog.Source, n int, size picture.Size, by picture.Resampler, out string) error {
	pix, ids, err := encode.Preview(e.ctx, src, n, size, by)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		e.warn("no preview: none of the pictures that were tried can be decoded")
		return nil
	}
	images, err := sheet.Batch(pix, len(ids), size.Width, size.Height)
	if err != nil {
		return err
	}
	labels := make([]string, len(ids))
	for i, id := range ids {
		words, _, _ := strings.Cut(catalog.ClassWords(src.Classes()[src.Sample(id).Label]), ",")
		labels[i] = words
	}
	drawn, err := sheet.Draw(images, labels, min(8, len(images)),
		fmt.Sprintf("%d of %d pictures, cropped to %s", len(ids), src.Len(), size))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	path := filepath.Join(out, "preview.png")
	disk.Sweep(path)
	if err := sheet.WritePNG(path, drawn); err != nil {
		return err
	}
	e.printf("preview %s", path)
	return nil
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
