// Package encode turns a source of pictures into shards of latents: it joins the packages below data, which decode,
// crop and keep, with package vae, which encodes.
//
//	src, err := catalog.Open(ctx, "pictures", catalog.Options{})
//	model, err := vae.Open("sd-vae-ft-ema", torch.CPU)
//	manifest, err := encode.Run(ctx, encode.Options{
//		Source: src, VAE: model, VAEName: "sd-vae-ft-ema", OutDir: "latents", ImageSize: picture.Square(256),
//	})
//
// Run continues what was cut short. The [example] encodes a source of its own.
//
// [example]: https://pkg.go.dev/github.com/ditrun/ditrun/vae/encode#example-package
package encode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// Options says what to encode. Source, VAE, VAEName and OutDir are required.
type Options struct {
	Source    catalog.Source
	VAE       *vae.AutoencoderKL // opened from a file or saved to one: manifests name it by its checksum
	VAEName   string             // for people, such as the folder it came from
	OutDir    string
	ImageSize picture.Size // of the crops; the zero value means a square of the VAE's sample size

	BatchSize int // pictures encoded at once; 0 means 32
	// NumWorkers is the number of goroutines that decode. 0 means 1 where the VAE computes on the CPU, which leaves the
	// cores to libtorch, and else the cores of this process but one.
	NumWorkers int
	Flip       string            // "both" (also "") keeps the latents of mirrored pictures too, "none" does not
	DType      string            // of the stored latents: fp16 (also "") or fp32
	Precision  nn.Precision      // of the encoder: fp32, tf32, bf16 or fp16; "" means tf32 on CUDA, else fp32
	ShardSize  int               // pictures in a shard; 0 means latents.DefaultShardSize
	Tool       string            // name and version of the program, for the manifest
	Resampler  picture.Resampler // of the crop; "" means picture.PillowClassic
	// "fail" (also "") lists all pictures that cannot be decoded and ends with an error, "skip" leaves them out
	OnError string

	// Rank of World processes that were started together; they begin at places far apart. Both may be 0.
	Rank, World int
	// LocalWorld of these processes are on this machine and share its cores; 0 means 1.
	LocalWorld int

	// behind lets the host work on the latents of a batch while the device makes those of the next one.
	behind bool

	// OnProgress, which may be nil, is called at the start, after each batch, and now and then while others work.
	OnProgress func(Progress)
	// Unlocked, which may be nil, is called where the file system of OutDir has no locks, so that processes cannot
	// share the work; its error ends it.
	Unlocked func() error
	// OnBad, which may be nil, is told each picture that cannot be decoded, as it is met.
	OnBad func(bad catalog.Bad)
}

// Validate returns an error for the first field whose value is not allowed: the field as the command's flag spells
// it, the value and the rule. What Run requires may be missing still, so that mistakes are found before files are
// opened; where the VAE is there the size of the crops is held against it.
func (o Options) Validate() error {
	if o.VAE != nil && o.ImageSize != (picture.Size{}) {
		if err := o.VAE.Config().CheckImageSize(o.ImageSize.Height, o.ImageSize.Width); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name  string
		value int
	}{
		{"batch-size", o.BatchSize}, {"num-workers", o.NumWorkers}, {"shard-size", o.ShardSize},
		{"local-world", o.LocalWorld},
	} {
		if f.value < 0 {
			return fmt.Errorf("%s %d: want at least 1", f.name, f.value)
		}
	}
	if o.World < 0 || o.Rank < 0 || o.World > 1 && o.Rank >= o.World { // a rank of a world of one has no effect
		return fmt.Errorf("rank %d and world %d: want a rank from 0 to world - 1", o.Rank, o.World)
	}
	switch {
	case !slices.Contains([]string{"", "both", "none"}, o.Flip):
		return fmt.Errorf("flip %q: want both or none", o.Flip)
	case !slices.Contains([]string{"", "fp16", "fp32"}, o.DType):
		return fmt.Errorf("dtype %q: want fp16 or fp32", o.DType)
	case !slices.Contains([]picture.Resampler{"", picture.PillowClassic, picture.Pillow13, picture.Imaging},
		o.Resampler):
		return fmt.Errorf("resampler %q: want %s, %s or %s", o.Resampler, picture.PillowClassic, picture.Pillow13,
			picture.Imaging)
	case !slices.Contains([]string{"", "fail", "skip"}, o.OnError):
		return fmt.Errorf("on-error %q: want fail or skip", o.OnError)
	}
	return cmp.Or(o.Precision, nn.FP32).Validate(nn.FP16)
}

// Progress is how far the work is. Counts include the finished shards of earlier runs and of other
// processes.
type Progress struct {
	Done, Total int
	// Encoded counts the pictures whose latents this process made.
	Encoded int
	// WaitShare is the share of the time since the last call that the encoder waited for pictures.
	WaitShare float64
	// Overflows counts the batches that float16 could not hold and float32 made again.
	Overflows int
	// Clipped counts pictures of 16-bit gray whose levels above 255 were lost, see picture.Image.
	Clipped int
	// Oriented counts pictures that carry an EXIF orientation; whether they were turned is up to the source.
	Oriented int
	// Others says that there is nothing left to do but what other processes hold.
	Others bool
}

// Run encodes what is missing in OutDir and returns the manifest, which is written last. A run that was stopped
// leaves whole shards alone, and the next one with equal options continues with the same bytes. Several processes,
// on one machine or many that share the folder, may run at once and share the work. When ctx ends Run returns its
// error.
//
// A picture that cannot be decoded does not end the work: with OnError "fail" all are read, the shards without bad
// ones are kept, and a catalog.BadPicturesError names the others. With "skip" that error says that no picture is
// left. A source that cannot be read does end it.
func Run(ctx context.Context, o Options) (*latents.Manifest, error) {
	m, err := run(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("encode latents: %w", err)
	}
	return m, nil
}

func run(ctx context.Context, o Options) (*latents.Manifest, error) {
	if err := o.checkRequired(); err != nil {
		return nil, err
	}
	o = o.WithDefaults()
	plan, err := o.plan()
	if err != nil {
		return nil, err
	}
	_, missing := os.Stat(o.OutDir)
	w, err := latents.NewWriter(o.OutDir, plan)
	if err != nil {
		return nil, err
	}
	var none *catalog.BadPicturesError
	defer func() {
		w.Close()
		if missing != nil && none != nil && none.None() {
			os.Remove(o.OutDir) // which was made for nothing
		}
	}()
	plan = w.Plan()
	e := &encoder{Options: o, flip: plan.Flip}
	if err := e.recount(w); err != nil {
		return nil, err
	}
	o.OnProgress(Progress{Done: e.done, Total: plan.Dataset.Samples})
	if e.done < plan.Dataset.Samples {
		if locks, err := w.HasLocks(); err != nil {
			return nil, err
		} else if !locks && o.Unlocked != nil {
			if err := o.Unlocked(); err != nil {
				return nil, err
			}
		}
		if err := e.run(ctx, w); err != nil {
			return nil, err
		}
		if len(e.bad) > 0 && o.OnError == "fail" {
			slices.SortFunc(e.bad, func(a, b catalog.Bad) int { return a.ID - b.ID })
			none = &catalog.BadPicturesError{Bad: e.bad, Of: plan.Dataset.Samples}
			return nil, none
		}
	}
	m, err := w.Finish(ctx)
	if err != nil && len(e.bad) > 0 && ctx.Err() == nil {
		// Another process may have found first that no picture is left, and removed the shards.
		if missing, _ := w.Missing(); len(missing) == plan.NumShards() &&
			!errors.As(err, new(*catalog.BadPicturesError)) {
			err = &catalog.BadPicturesError{Bad: e.bad, Of: plan.Dataset.Samples}
		}
	}
	errors.As(err, &none)
	return m, err
}

// WithDefaults returns o with a value for every setting that it leaves open, as [Run] takes them. VAE is required.
func (o Options) WithDefaults() Options {
	if o.ImageSize == (picture.Size{}) {
		o.ImageSize = picture.Square(o.VAE.Config().SampleSize)
	}
	workers := 1
	if o.VAE.Device().IsCUDA() { // on the CPU it would only be later
		o.behind = true
		workers = max(1, runtime.GOMAXPROCS(0)/max(1, o.LocalWorld)-1)
	}
	o.BatchSize = cmp.Or(o.BatchSize, 32)
	o.NumWorkers = cmp.Or(o.NumWorkers, workers)
	o.Resampler = cmp.Or(o.Resampler, picture.PillowClassic)
	o.Flip = cmp.Or(o.Flip, "both")
	o.DType = cmp.Or(o.DType, "fp16")
	o.Precision = o.Precision.On(o.VAE.Device())
	o.OnError = cmp.Or(o.OnError, "fail")
	if o.OnProgress == nil {
		o.OnProgress = func(Progress) {}
	}
	if o.OnBad == nil {
		o.OnBad = func(catalog.Bad) {}
	}
	return o
}

// Bytes is about what is still to be written into OutDir, and the largest piece of it, a shard.
func (o Options) Bytes() (left, shard int64, err error) {
	if err := o.checkRequired(); err != nil {
		return 0, 0, err
	}
	o = o.WithDefaults()
	plan, err := o.plan()
	if err != nil {
		return 0, 0, err
	}
	left = plan.BytesLeft(o.OutDir)
	return left, min(left, plan.ShardBytes()), nil
}

func (o *Options) checkRequired() error {
	if o.Source == nil || o.VAE == nil || o.VAEName == "" || o.OutDir == "" {
		return errors.New("options: Source, VAE, VAEName and OutDir are required")
	}
	return nil
}

// stored names the types of stored latents as their files do.
var stored = map[string]checkpoint.DType{"fp16": checkpoint.F16, "fp32": checkpoint.F32}

// plan describes the set of latents that o asks for.
func (o *Options) plan() (latents.Plan, error) {
	if err := o.Validate(); err != nil {
		return latents.Plan{}, err
	}
	cfg := o.VAE.Config()
	if cfg.InChannels != 3 {
		return latents.Plan{}, fmt.Errorf("the VAE takes images of %s, want 3",
			names.Plural(cfg.InChannels, "channel"))
	}
	if o.VAE.WeightsSHA256() == "" {
		return latents.Plan{}, errors.New("the VAE is in no file: save it first")
	}
	return latents.Plan{
		Dataset: latents.DatasetOf(o.Source),
		VAE: latents.VAE{Name: filepath.Base(o.VAEName), SHA256: o.VAE.WeightsSHA256(),
			ScalingFactor: cfg.ScalingFactor},
		Channels: cfg.LatentChannels, Height: o.ImageSize.Height / cfg.Downsample(),
		Width: o.ImageSize.Width / cfg.Downsample(), DType: stored[o.DType], Flip: o.Flip == "both",
		Precision: string(o.Precision),
		ImageSize: o.ImageSize, Crop: o.Resampler.Crop(), Orientation: catalog.OrientationOf(o.Source),
		Decoder: picture.Decoders, ShardSize: o.ShardSize,
		Tool: strings.TrimPrefix(o.Tool+", "+picture.DecoderVersions(), ", "),
	}, nil
}
