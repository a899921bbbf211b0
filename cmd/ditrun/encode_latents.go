package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/encode"
)

// encodeOptions are the flags of encode-latents.
type encodeOptions struct {
	pictures pictureOptions
	captions captionOptions
	encode   encode.Options

	data    string
	vae     string // the path that encode.VAEName stands for
	fetch   bool
	preview int
	verify  bool
}

func (o *encodeOptions) flags() []cli.Flag {
	list := []cli.Flag{
		&cli.StringFlag{Name: "data", Destination: &o.data,
			Usage: "pictures at `PATH`: a folder, an archive, a pattern, or s3://bucket/key"},
		&cli.StringFlag{Name: "vae", Destination: &o.encode.VAEName, Usage: "`PATH|NAME`: the autoencoder"},
		&cli.StringFlag{Name: "out", Destination: &o.encode.OutDir, Usage: "write the latents into `DIR`"},
		imageSizeVar(&o.encode.ImageSize, "that of the autoencoder",
			"crop pictures to `PIXELS` a side, or HEIGHTxWIDTH"),
		&cli.IntFlag{Name: "batch-size", Destination: &o.encode.BatchSize, Value: 32,
			Usage: "encode `N` pictures at a time"},
		&cli.StringFlag{Name: "flip", Destination: &o.encode.Flip, Value: "both",
			Usage: "`both|none`: both encodes mirrored pictures too, none does not"},
		&cli.StringFlag{Name: "dtype", Destination: &o.encode.DType, Value: "fp16",
			Usage: "`fp16|fp32`: type of the numbers that are stored"},
		precisionFlag(&o.encode.Precision, "type of the encoder's arithmetic: fp32, tf32, bf16 or fp16"),
		&cli.StringFlag{Name: "resampler", Destination: (*string)(&o.encode.Resampler),
			Value: string(picture.PillowClassic),
			Usage: "`NAME`: how crops are resized: pillow-classic (as in DiT), pillow13 or imaging"},
		&cli.IntFlag{Name: "preview", Destination: &o.preview, DefaultText: "none",
			Usage: "first draw `N` of the crops into preview.png in --out"},
		&cli.BoolFlag{Name: "verify", Destination: &o.verify, DisableDefaultText: true,
			Usage: "only check the latents in --out by their checksums; needs no other flag"},
		fetchFlag(&o.fetch),
	}
	list = append(list, o.pictures.unconditional())
	list = append(list, o.pictures.flags("1 on a CPU, else the cores less one")...)
	return append(list, o.captions.flags()...)
}

func (o *encodeOptions) check(func(string) bool) error {
	out := required{"out", o.encode.OutDir}
	if o.verify {
		return require("encode-latents", out)
	}
	if err := o.captions.check(); err != nil {
		return err
	}
	if o.captionsAlone() {
		return require("encode-latents", out)
	}
	if err := require("encode-latents", required{"data", o.data}, required{"vae", o.encode.VAEName}, out); err != nil {
		return err
	}
	if err := atLeast(1, "batch-size", o.encode.BatchSize); err != nil {
		return err
	}
	if err := refuseEmpty(required{"flip", o.encode.Flip}, required{"dtype", o.encode.DType},
		required{"resampler", string(o.encode.Resampler)}); err != nil {
		return err
	}
	if err := o.encode.Validate(); err != nil {
		return ofFlag(err)
	}
	return o.pictures.check()
}

// captionsAlone says whether captions are to be added to latents that are there.
func (o *encodeOptions) captionsAlone() bool {
	return len(o.captions.specs) > 0 && o.encode.VAEName == ""
}

func encodeLatentsCommand() *cli.Command {
	o := &encodeOptions{}
	return newCommand(spec{
		name:  "encode-latents",
		usage: "turn pictures into latents to train on",
		description: "Crops every picture to one size, encodes it and its mirror image, and\n" +
			"writes the posteriors into shards with checksums. After an interrupt the\n" +
			"same command makes what is missing. Several processes, started by hand, by\n" +
			"torchrun or by Slurm, share the work. The pictures may be a folder, sorted\n" +
			"into class folders or not, tar archives, parquet or IDX files, on disk or at\n" +
			"s3://. With --captions the captions are encoded too; without --vae they are\n" +
			"added to finished latents.",
		example:  "ditrun encode-latents --data pictures --vae sd-vae-ft-ema --out latents --image-size 256",
		flags:    o.flags(),
		required: "data vae out",
		groups: []group{
			{"Pictures", "image-size resampler orientation labels unconditional on-error preview"},
			{"Latents", "flip dtype verify fetch"},
			{"Captions", "captions text-encoder text-states"},
			{"Speed and memory", "batch-size num-workers precision"},
		},
		check: o.check,
		run: func(e *env) error {
			if o.verify {
				return verifyLatents(e, o.encode.OutDir)
			}
			if err := checkFolder("out", o.encode.OutDir); err != nil {
				return err
			}
			if exists(filepath.Join(o.encode.OutDir, vae.WeightsName)) {
				return fmt.Errorf("--out %s: holds an autoencoder, want a folder for latents alone", o.encode.OutDir)
			}
			alone := o.captionsAlone()
			o.vae, o.encode.VAEName = o.encode.VAEName, ofVAE(&o.encode.VAEName).knownName()
			err := e.findWeights(o.fetch, ofVAE(&o.vae), ofTextEncoder(&o.captions.textEncoder))
			switch {
			case err != nil:
				return err
			case alone:
				return addCaptions(e, o)
			}
			return withLessMemory(runEncodeLatents(e, o), "a smaller --batch-size and --precision bf16 take less")
		},
	})
}

func runEncodeLatents(e *env, o *encodeOptions) error {
	opened := e.waiting("opening the pictures and the autoencoder")
	in, err := openEncodeInput(e, o)
	opened()
	if err != nil {
		return err
	}
	defer in.close()
	in.describe(e, o)
	if o.preview > 0 && in.process.Rank == 0 {
		if err := e.previewCrops(in.encode, o.preview); err != nil {
			return err
		}
	}
	began := time.Now()
	account := &encodeAccount{env: e, options: &o.pictures, wait: -1}
	in.encode.OnBad, in.encode.OnProgress = account.noteBad, account.showProgress
	defer e.waiting("looking at what is there")()
	manifest, err := encode.Run(e.ctx, in.encode)
	if err != nil {
		return account.explain(err)
	}
	account.summarize(manifest, in.encode)
	result := map[string]any{}
	if in.captions != nil {
		if result, err = in.captions.store(e, in.encode.OutDir); err != nil {
			return err
		}
	}
	maps.Copy(result, map[string]any{"out": in.encode.OutDir,
		"samples": manifest.Dataset.Samples - len(manifest.Skipped), "skipped": len(manifest.Skipped),
		"shards": len(manifest.Shards), "seconds": time.Since(began).Seconds()})
	return e.result(result)
}

// encodeInput is what encode-latents opens.
type encodeInput struct {
	process  dist.Env
	device   torch.Device
	encode   encode.Options // with Source and VAE
	captions *captionWork   // nil for none
	latents  string         // what they take

	closers []func()
}

func (in *encodeInput) close() {
	for i := len(in.closers) - 1; i >= 0; i-- {
		in.closers[i]()
	}
}

func openEncodeInput(e *env, o *encodeOptions) (*encodeInput, error) {
	process, err := dist.Detect(os.Getenv)
	if err != nil {
		return nil, usageError{err}
	}
	if err := outsideOf(o.data, "out", o.encode.OutDir); err != nil {
		return nil, err
	}
	in := &encodeInput{process: process, encode: o.encode}
	if err := in.open(e, o); err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}

func (in *encodeInput) open(e *env, o *encodeOptions) error {
	src, err := o.pictures.open(e, o.data)
	if err != nil {
		return err
	}
	in.closers = append(in.closers, func() { src.Close() })
	if in.device, err = e.openDeviceOf(in.process); err != nil {
		return err
	}
	model, err := vae.Open(o.vae, in.device)
	if err != nil {
		return withHint(err, "`ditrun train-vae` trains one; --vae sd-vae-ft-ema is that of Stable Diffusion")
	}
	in.closers = append(in.closers, model.Close)
	if len(o.captions.specs) > 0 && in.process.Rank == 0 {
		texts, err := captions.Read(e.ctx, o.captions.specs, src)
		if err != nil {
			return err
		}
		in.captions, err = o.captions.open(e, texts, func() (torch.Device, error) { return in.device, nil })
		if err != nil {
			return err
		}
		in.closers = append(in.closers, in.captions.close)
	}
	l := &in.encode
	l.Source, l.VAE = src, model
	l.NumWorkers, l.OnError = o.pictures.numWorkers, o.pictures.onError
	l.Rank, l.World, l.LocalWorld = in.process.Rank, in.process.World, in.process.LocalWorld
	l.Tool = "ditrun " + readVersion().Ditrun
	l.Unlocked = e.onNoLocks(l.OutDir, l.World)
	*l = l.WithDefaults()
	if err := l.Validate(); err != nil {
		return ofFlag(err)
	}
	in.latents, err = in.checkRoom(e)
	return err
}

// checkRoom compares what the latents take with what is free, and says so in words.
func (in *encodeInput) checkRoom(e *env) (latents string, err error) {
	l := &in.encode
	left, shard, err := l.Bytes()
	if err != nil {
		return "", err
	}
	latents = fmt.Sprintf("%s, %s to make", l.DType, format.Bytes(left))
	if in.process.Rank > 0 { // the first has looked
		return latents, nil
	}
	free, err := e.checkRoom(latentShards(l.OutDir, left, shard))
	return latents + free, err
}

// describe prints what was found, before the work starts.
func (in *encodeInput) describe(e *env, o *encodeOptions) {
	l := &in.encode
	e.printf("device  %s, %s, %s", describeDevice(in.device), l.Precision, plural(l.NumWorkers, "decoder"))
	if note := precisionNote(l.Precision, in.device, "latents"); note != "" {
		e.item("", note)
	}
	crop := l.ImageSize.String() + " pixels"
	if o.encode.ImageSize == (picture.Size{}) {
		crop += " (the autoencoder's size)"
	}
	e.itemOf("data", o.data, fmt.Sprintf("%s %s, cropped to %s", plural(l.Source.Len(), "picture"),
		inClasses(l.Source.Classes()), crop))
	cfg := l.VAE.Config()
	e.itemOf("vae", l.VAEName, describeVAE(cfg))
	for _, note := range l.VAE.Notes() {
		e.item("", note)
	}
	views := "one view"
	if l.Flip == "both" {
		views = "two views"
	}
	e.printf("latents %dx%dx%d, %s, %s", cfg.LatentChannels, l.ImageSize.Height/cfg.Downsample(),
		l.ImageSize.Width/cfg.Downsample(), views, in.latents)
	if l.World > 1 {
		e.printf("process %d of %d", l.Rank, l.World)
	}
}

// previewCrops writes the sheet of n crops.
func (e *env) previewCrops(o encode.Options, n int) error {
	drawn := e.waiting("drawing the preview")
	path, err := encode.WritePreview(e.ctx, o, n)
	drawn()
	switch {
	case errors.As(err, new(*sheet.TooManyError)):
		return fmt.Errorf("--preview: %w", err)
	case err != nil:
		return err
	case path == "":
		e.warn("no preview: none of the pictures that were tried can be decoded")
	default:
		e.printf("preview %s", path)
	}
	return nil
}

// onNoLocks returns what is called where the file system of dir has no locks: one process goes on, several of one job
// cannot know what the others do.
func (e *env) onNoLocks(dir string, world int) func() error {
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

// describeVAE says what an autoencoder makes of pictures.
func describeVAE(c vae.Config) string {
	return fmt.Sprintf("%s to one, %s, scaling factor %.5g", plural(c.Downsample(), "pixel"),
		plural(c.LatentChannels, "latent channel"), c.ScalingFactor)
}
