package training

import (
	"context"
	"iter"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/vae"
)

// maxMeasured is the number of pictures that the scaling factor is measured on, where there are more.
const maxMeasured = 4096

// batchesToMeasure are these pictures: all, each once, or the first of the training o where there are many. Pictures
// that went bad since they were checked do not count.
func batchesToMeasure(ctx context.Context, src catalog.Source,
	o stream.ImageOptions) iter.Seq2[*stream.ImageBatch, error] {
	if src.Len() <= maxMeasured {
		o.KeepGoing = true
		return stream.ImageRange(ctx, src, 0, src.Len(), o)
	}
	o.StartStep, o.MaxSteps = 0, (maxMeasured+o.Batch-1)/o.Batch
	return stream.Images(ctx, src, o)
}

// measure returns the standard deviation of the latents of these pictures.
func (o *Options) measure(ctx context.Context, model *vae.AutoencoderKL) (float64, error) {
	total := min(o.Source.Len(), maxMeasured)
	o.OnMeasure(0, total)
	counted := func(yield func(*stream.ImageBatch, error) bool) {
		done := 0
		for b, err := range batchesToMeasure(ctx, o.Source, o.pictures(0)) {
			if err == nil && len(b.IDs) == 0 {
				continue
			}
			if !yield(b, err) || err != nil {
				return
			}
			if done = min(done+len(b.IDs), total); done < total {
				o.OnMeasure(done, total)
			}
		}
	}
	std, err := vae.LatentStd(ctx, model, o.Config.ImageSize, maxMeasured, Batches(counted))
	if err == nil {
		o.OnMeasure(total, total)
	}
	return std, err
}
