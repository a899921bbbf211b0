package data

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// ImageOptions asks for batches of crops. Size and Batch are required; the rest may be zero.
type ImageOptions struct {
	Size    int // side of the square crops
	Batch   int // pictures in a batch
	Workers int // goroutines that decode; 0 means up to 4
	// Resampler of the crop; "" means PillowClassic.
	Resampler Resampler

	// KeepGoing leaves bad pictures out of the batches of ImageRange and lists them in Bad.
	KeepGoing bool

	// For ImageBatches alone, as in BatchOptions.
	Seed      uint64
	FlipProb  float64
	StartStep int
	MaxSteps  int
	Epochs    int
}

// ImageBatch holds decoded crops. It belongs to the iterator and is overwritten when the loop asks for the next one:
// copy what is to be kept.
type ImageBatch struct {
	Step        int // from 0
	Epoch       int // from 0
	IDs         []int
	Labels      []int64 // [N]
	Pix         []uint8 // [N, S, S, 3]
	Bad         []Bad   // with KeepGoing: the samples that are not among the above
	WaitSeconds float64 // how long the loop waited for this batch
}

// Bad is a sample whose picture cannot be decoded, and why.
type Bad struct {
	ID  int
	Err *BadPicture
}

// ImageBatches yields shuffled crops for training. Order, views and steps follow the rules of Latents.Batches; what a
// batch holds does not depend on the number of workers. A picture that cannot be read is an error that names it.
func ImageBatches(ctx context.Context, src Source, o ImageOptions) iter.Seq2[*ImageBatch, error] {
	return func(yield func(*ImageBatch, error) bool) {
		if err := checkSteps(src.Len(), o.Batch, o.StartStep, o.MaxSteps, o.Epochs, o.FlipProb); err != nil {
			yield(nil, fmt.Errorf("pictures: %w", err))
			return
		}
		o.KeepGoing = false
		tasks := epochTasks(src.Len(), o.Batch, o.Seed, o.StartStep, lastStep(o.MaxSteps, o.Epochs, src.Len()/o.Batch))
		imageBatches(ctx, src, o, tasks)(yield)
	}
}

// ImageRange yields the crops of samples lo to hi-1 in catalogue order, for encoding; the last batch may be smaller.
// Nothing is mirrored.
func ImageRange(ctx context.Context, src Source, lo, hi int, o ImageOptions) iter.Seq2[*ImageBatch, error] {
	return func(yield func(*ImageBatch, error) bool) {
		if o.Batch < 1 || lo < 0 || hi > src.Len() || lo > hi {
			yield(nil, fmt.Errorf("pictures %d to %d in batches of %d: want a range within %d, batches of at least 1", lo, hi, o.Batch, src.Len()))
			return
		}
		o.FlipProb = 0
		tasks := func(yield func(task) bool) {
			for step, at := 0, lo; at < hi; step, at = step+1, at+o.Batch {
				items := make([]int, min(o.Batch, hi-at))
				for i := range items {
					items[i] = at + i
				}
				if !yield(task{step: step, items: items}) {
					return
				}
			}
		}
		imageBatches(ctx, src, o, tasks)(yield)
	}
}

func imageBatches(ctx context.Context, src Source, o ImageOptions, tasks iter.Seq[task]) iter.Seq2[*ImageBatch, error] {
	return func(yield func(*ImageBatch, error) bool) {
		if _, err := NewCropper(o.Size, o.Resampler); err != nil {
			yield(nil, err)
			return
		}
		size := 3 * o.Size * o.Size
		newBuffer := func() *ImageBatch {
			return &ImageBatch{IDs: make([]int, o.Batch), Labels: make([]int64, o.Batch), Pix: make([]uint8, o.Batch*size)}
		}
		newWorker := func(ctx context.Context) func(task, *ImageBatch) error {
			crop, err := NewCropper(o.Size, o.Resampler)
			return func(t task, b *ImageBatch) error {
				if err != nil {
					return err
				}
				n := len(t.items)
				b.Step, b.Epoch = t.step, t.epoch
				b.IDs, b.Labels, b.Pix, b.Bad = b.IDs[:n], b.Labels[:n], b.Pix[:n*size], nil
				slot := 0
				for _, i := range t.items {
					if err := ctx.Err(); err != nil { // decoding is slow enough to be felt when interrupted
						return err
					}
					pix := b.Pix[slot*size : (slot+1)*size]
					if err := cropSample(crop, src, i, pix); err != nil {
						var bad *BadPicture
						if o.KeepGoing && errors.As(err, &bad) {
							b.Bad = append(b.Bad, Bad{i, bad})
							continue
						}
						return err
					}
					if mirrored(o.Seed, o.FlipProb, t.step, o.Batch, slot) {
						mirror(pix, o.Size, o.Size)
					}
					b.IDs[slot], b.Labels[slot] = i, int64(src.Sample(i).Label)
					slot++
				}
				b.IDs, b.Labels, b.Pix = b.IDs[:slot], b.Labels[:slot], b.Pix[:slot*size]
				return nil
			}
		}
		for r, err := range prefetch(ctx, numWorkers(o.Workers), tasks, newBuffer, newWorker) {
			if err != nil {
				yield(nil, err)
				return
			}
			r.batch.WaitSeconds = r.wait.Seconds()
			if !yield(r.batch, nil) {
				return
			}
		}
	}
}

// cropSample decodes and crops sample i; an error or a panic names the sample.
func cropSample(crop *Cropper, src Source, i int, pix []uint8) error {
	return recovered(func() error {
		img, err := src.Image(i)
		if err != nil {
			return err
		}
		if err := crop.Crop(pix, img); err != nil {
			s := src.Sample(i)
			return fmt.Errorf("%s of class %q: %w", s.Name, src.Classes()[s.Label], err)
		}
		return nil
	})
}
