package training

import (
	"context"
	"iter"
	"time"

	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/internal/disk"
)

// batches yields the parts of the batches from the present step on. Where a read fails that may succeed a little
// later, the stream is opened again at the same place, which gives the same samples. An error is the last that it
// yields.
func (r *runner) batches(ctx context.Context) iter.Seq2[samples.Batch, error] {
	parts := r.cfg.parts()
	options := stream.Options{
		Seed: r.cfg.GlobalSeed, GlobalBatch: r.cfg.GlobalBatchSize, MaxSteps: r.total, FlipProb: r.cfg.FlipProb,
		Order: r.cfg.DataOrder, Captions: r.cfg.Model.HasText(), Workers: 1,
		Share: stream.Share{Rank: r.group.Rank(), World: r.group.World(), MicroBatches: parts, Offset: r.offset},
	}
	return func(yield func(samples.Batch, error) bool) {
		step, part := r.step, 0 // of the batch that comes next
		failures := 0           // since the last batch
		for {
			var failed error
			options.StartStep = step
			pass := part
			for b, err := range r.source.Batches(ctx, options) {
				if failed = err; err != nil {
					break
				}
				if pass > 0 {
					pass--
					continue
				}
				failures = 0
				if !yield(b, nil) {
					return
				}
				if part++; part == parts {
					step, part = step+1, 0
				}
			}
			switch {
			case failed == nil:
				return
			case ctx.Err() != nil || failures == len(r.pauses.read) || !disk.Momentary(failed):
				yield(samples.Batch{}, failed)
				return
			}
			pause := r.pauses.read[failures]
			failures++
			r.warn("%v: tried again in %v", failed, pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}
}
