// Package encode turns a source of pictures into shards of latents: it joins package data, which
// decodes, crops and keeps, with package vae, which encodes.
package encode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/vae"
)

// Options says what to encode. Source, VAE, VAEName, OutDir and ImageSize are required.
type Options struct {
	Source    data.Source
	VAE       *vae.AutoencoderKL // opened from a file or saved to one: manifests name it by its checksum
	VAEName   string             // for people, such as the folder it came from
	OutDir    string
	ImageSize data.Size // of the crops

	BatchSize  int              // pictures encoded at once; 0 means 32
	NumWorkers int              // goroutines that decode; 0 means 1, which leaves the cores to libtorch
	Flip       string           // "both" (also "") keeps the latents of mirrored pictures too, "none" does not
	DType      checkpoint.DType // of the moments; "" means F16
	Precision  string           // of the encoder: fp32 (also ""), tf32, bf16 or fp16
	ShardSize  int              // pictures in a shard; 0 means data.DefaultShardSize
	Tool       string           // name and version of the program, for the manifest
	Resampler  data.Resampler   // of the crop; "" means data.PillowClassic
	OnError    string           // "fail" (also "") lists all pictures that cannot be decoded and ends with an error, "skip" leaves them out

	// Rank of World processes that were started together; they begin at places far apart. Both may be 0.
	Rank, World int

	// OnProgress, which may be nil, is called at the start, after each batch, and now and then while others work.
	OnProgress func(Progress)
	// Unlocked, which may be nil, is called where the file system of OutDir has no locks, so that processes cannot share the
	// work; its error ends it.
	Unlocked func() error
	// OnBad, which may be nil, is told each picture that cannot be decoded, as it is met.
	OnBad func(bad data.Bad)
}

// Progress is how far the work is. Counts include the finished shards of earlier runs and of other
// processes.
type Progress struct {
	Done, Total int
	// WaitShare is the share of the time since the last call that the encoder waited for pictures.
	WaitShare float64
	// Overflows counts the batches that float16 could not hold and float32 made again.
	Overflows int
	// Clipped counts pictures of 16-bit gray whose levels above 255 were lost, see data.Image.
	Clipped int
	// Others says that there is nothing left to do but what other processes hold.
	Others bool
}

// BadPicturesError says that pictures cannot be decoded.
type BadPicturesError struct{ Bad []data.Bad }

func (e *BadPicturesError) Error() string {
	if len(e.Bad) == 1 {
		return fmt.Sprintf("a picture cannot be decoded: %s: %v", e.Bad[0].Err.Path, e.Bad[0].Err.Err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "pictures that cannot be decoded: %d", len(e.Bad))
	for _, bad := range e.Bad {
		fmt.Fprintf(&b, "\n  %s: %v", bad.Err.Path, bad.Err.Err)
	}
	return b.String()
}

// Run encodes what is missing in OutDir and returns the manifest, which is written last. A run that was stopped leaves
// whole shards alone, and the next one with equal options continues with the same bytes. Several processes, on one machine
// or many that share the folder, may run at once and share the work. When ctx ends Run returns its error.
//
// A picture that cannot be decoded does not end the work: with OnError "fail" all are read, the shards without bad ones
// are kept, and a BadPicturesError names the others. A source that cannot be read does end it.
func Run(ctx context.Context, o Options) (*data.Manifest, error) {
	m, err := run(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("encode latents: %w", err)
	}
	return m, nil
}

func run(ctx context.Context, o Options) (*data.Manifest, error) {
	o.setDefaults()
	plan, err := o.plan()
	if err != nil {
		return nil, err
	}
	w, err := data.NewShardWriter(o.OutDir, plan)
	if err != nil {
		return nil, err
	}
	defer w.Close()
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
			return nil, &BadPicturesError{e.bad}
		}
	}
	return w.Finish(ctx)
}

func (o *Options) setDefaults() {
	o.BatchSize = cmp.Or(o.BatchSize, 32)
	o.NumWorkers = cmp.Or(o.NumWorkers, 1)
	o.Resampler = cmp.Or(o.Resampler, data.PillowClassic)
	o.Flip = cmp.Or(o.Flip, "both")
	o.DType = cmp.Or(o.DType, checkpoint.F16)
	o.Precision = cmp.Or(o.Precision, "fp32")
	o.OnError = cmp.Or(o.OnError, "fail")
	if o.OnProgress == nil {
		o.OnProgress = func(Progress) {}
	}
	if o.OnBad == nil {
		o.OnBad = func(data.Bad) {}
	}
}

// Preview returns the crops [n, H, W, 3] of n pictures spread evenly over the source, or of all where there are fewer, and
// their ids. Bad pictures are left out.
func Preview(ctx context.Context, src data.Source, n int, size data.Size, by data.Resampler) (pix []uint8, ids []int, err error) {
	n = min(n, src.Len())
	crop, err := data.NewCropper(size, by)
	if err != nil {
		return nil, nil, err
	}
	for i := range n {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		id := i * src.Len() / n
		img, err := src.Image(id)
		var bad *data.BadPicture
		if errors.As(err, &bad) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		out := make([]uint8, 3*size.Height*size.Width)
		if err := crop.Crop(out, img); err != nil {
			return nil, nil, err
		}
		pix, ids = append(pix, out...), append(ids, id)
	}
	return pix, ids, nil
}

// plan describes the set of latents that o asks for.
func (o *Options) plan() (data.Plan, error) {
	if o.Source == nil || o.VAE == nil || o.VAEName == "" || o.OutDir == "" {
		return data.Plan{}, errors.New("options: Source, VAE, VAEName and OutDir are required")
	}
	cfg := o.VAE.Config()
	if err := cfg.CheckImageSize(o.ImageSize.Height, o.ImageSize.Width); err != nil {
		return data.Plan{}, err
	}
	if cfg.InChannels != 3 {
		return data.Plan{}, fmt.Errorf("the VAE takes images of %d channels, want 3", cfg.InChannels)
	}
	if o.VAE.WeightsSHA256() == "" {
		return data.Plan{}, errors.New("the VAE is in no file: save it first")
	}
	for _, c := range []struct {
		name, value string
		choices     []string
	}{
		{"flip", o.Flip, []string{"both", "none"}},
		{"precision", o.Precision, []string{"fp32", "tf32", "bf16", "fp16"}},
		{"on error", o.OnError, []string{"fail", "skip"}},
	} {
		if !slices.Contains(c.choices, c.value) {
			return data.Plan{}, fmt.Errorf("%s %q: want %s", c.name, c.value, strings.Join(c.choices, " or "))
		}
	}
	if o.BatchSize < 1 || o.NumWorkers < 1 {
		return data.Plan{}, fmt.Errorf("batch size %d, workers %d: want at least 1", o.BatchSize, o.NumWorkers)
	}
	return data.Plan{
		Dataset:  data.DatasetOf(o.Source),
		VAE:      data.VAE{Name: filepath.Base(o.VAEName), SHA256: o.VAE.WeightsSHA256(), ScalingFactor: cfg.ScalingFactor},
		Channels: cfg.LatentChannels, Height: o.ImageSize.Height / cfg.Downsample(), Width: o.ImageSize.Width / cfg.Downsample(), DType: o.DType, Flip: o.Flip == "both", Precision: o.Precision,
		ImageSize: o.ImageSize, Crop: o.Resampler.Crop(), Decoder: data.Decoders, ShardSize: o.ShardSize,
		Tool: strings.TrimPrefix(o.Tool+", "+data.DecoderVersions(), ", "),
	}, nil
}
