// Package encode turns a source of pictures into shards of latents: it joins package data, which
// decodes, crops and keeps, with package vae, which encodes.
package encode

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/vae"
)

// Options says what to encode. Source, VAE, VAEName, OutDir and ImageSize are required.
type Options struct {
	Source    data.Source
	VAE       *vae.AutoencoderKL // opened from a file or saved to one: manifests name it by its checksum
	VAEName   string             // for people, such as the folder it came from
	OutDir    string
	ImageSize int // side of the square crop

	BatchSize  int              // pictures encoded at once; 0 means 32
	NumWorkers int              // goroutines that decode; 0 means 1, which leaves the cores to libtorch
	Flip       string           // "both" (also "") keeps the latents of mirrored pictures too, "none" does not
	DType      checkpoint.DType // of the moments; "" means F16
	ShardSize  int              // pictures in a shard; 0 means data.DefaultShardSize
	Tool       string           // name and version of the program, for the manifest
	Resampler  data.Resampler   // of the crop; "" means data.PillowClassic

	// OnProgress, which may be nil, is called at the start and after each batch with the number of
	// pictures done, those of earlier runs included, and the number of all.
	OnProgress func(done, total int)
}

// Run encodes what is missing in OutDir and returns the manifest, which is written last. A run that
// was stopped leaves whole shards alone, and the next one with equal options continues with the
// same bytes. Several processes may run at once and share the work. When ctx ends Run returns its
// error.
func Run(ctx context.Context, o Options) (*data.Manifest, error) {
	m, err := run(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("encode latents: %w", err)
	}
	return m, nil
}

func run(ctx context.Context, o Options) (*data.Manifest, error) {
	if o.BatchSize == 0 {
		o.BatchSize = 32
	}
	if o.NumWorkers == 0 {
		o.NumWorkers = 1
	}
	if o.Resampler == "" {
		o.Resampler = data.PillowClassic
	}
	if o.OnProgress == nil {
		o.OnProgress = func(int, int) {}
	}
	plan, err := o.plan()
	if err != nil {
		return nil, err
	}
	w, err := data.NewShardWriter(o.OutDir, plan)
	if err != nil {
		return nil, err
	}
	plan = w.Plan()
	missing, err := w.Missing()
	if err != nil {
		return nil, err
	}
	done := plan.Dataset.Samples
	for _, k := range missing {
		lo, hi := plan.Range(k)
		done -= hi - lo
	}
	o.OnProgress(done, plan.Dataset.Samples)
	if len(missing) > 0 {
		e := &encoder{Options: o, flip: plan.Flip, done: done}
		err := torch.Run(o.VAE.Device(), func(s *torch.Scope) error {
			s = s.NoGrad()
			for claim, err := range w.Claims(ctx) {
				if err != nil {
					return err
				}
				if err := e.shard(ctx, s, claim); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return w.Finish(ctx)
}

// plan describes the set of latents that o asks for.
func (o *Options) plan() (data.Plan, error) {
	if o.Source == nil || o.VAE == nil || o.VAEName == "" || o.OutDir == "" {
		return data.Plan{}, errors.New("options: Source, VAE, VAEName and OutDir are required")
	}
	cfg := o.VAE.Config()
	if err := cfg.CheckImageSize(o.ImageSize); err != nil {
		return data.Plan{}, err
	}
	if cfg.InChannels != 3 {
		return data.Plan{}, fmt.Errorf("the VAE takes images of %d channels, want 3", cfg.InChannels)
	}
	if o.VAE.WeightsSHA256() == "" {
		return data.Plan{}, errors.New("the VAE is in no file: save it first")
	}
	if o.Flip != "" && o.Flip != "both" && o.Flip != "none" {
		return data.Plan{}, fmt.Errorf("flip %q: want both or none", o.Flip)
	}
	if o.BatchSize < 1 || o.NumWorkers < 1 {
		return data.Plan{}, fmt.Errorf("batch size %d, workers %d: want at least 1", o.BatchSize, o.NumWorkers)
	}
	dtype := o.DType
	if dtype == "" {
		dtype = checkpoint.F16
	}
	side := o.ImageSize / cfg.Downsample()
	return data.Plan{
		Dataset:  data.DatasetOf(o.Source),
		VAE:      data.VAE{Name: filepath.Base(o.VAEName), SHA256: o.VAE.WeightsSHA256(), ScalingFactor: cfg.ScalingFactor},
		Channels: cfg.LatentChannels, Height: side, Width: side, DType: dtype, Flip: o.Flip != "none",
		ImageSize: o.ImageSize, Crop: o.Resampler.Crop(), Decoder: data.Decoders, ShardSize: o.ShardSize, Tool: o.Tool,
	}, nil
}

type encoder struct {
	Options
	flip bool
	done int // pictures
}

// shard encodes the pictures of one shard. Batches start at the shard's first picture, so that its
// bytes do not depend on which shards were made before.
func (e *encoder) shard(ctx context.Context, s *torch.Scope, claim *data.Claim) error {
	images := data.ImageRange(ctx, e.Source, claim.Lo, claim.Hi, data.ImageOptions{Size: e.ImageSize, Batch: e.BatchSize, Workers: e.NumWorkers, Resampler: e.Resampler})
	for b, err := range images {
		if err != nil {
			return err
		}
		err = s.Try(func(s *torch.Scope) error {
			x := vae.Pixels(s, b.Pix, len(b.Labels), e.ImageSize)
			var mirrored []float32
			if e.flip {
				// Not the mirror image of the latents: the encoder pads on one side.
				mirrored = e.moments(s, s.Flip(x, 3))
			}
			return claim.Add(e.moments(s, x), mirrored, b.Labels)
		})
		if err != nil {
			return err
		}
		e.done += len(b.Labels)
		e.OnProgress(e.done, e.Source.Len())
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return claim.Commit()
}

// moments returns mean and log variance [N, 2C, h, w] of the latents of x [N, 3, S, S].
func (e *encoder) moments(s *torch.Scope, x *torch.Tensor) []float32 {
	var out []float32
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		mean, logvar := e.VAE.Encode(s, x)
		out = torch.Data[float32](s.To(s.Cat([]*torch.Tensor{mean, logvar}, 1), torch.Float32))
		return nil
	})
	return out
}
