package samples

import (
	"context"
	"fmt"
	"iter"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// Resident is the source of encoded latents that are all in the memory of dev: ImageNet's at 256 pixels take 21 GB,
// with mirrored views 42. Nothing is read after the start, and a batch is gathered on the device. The caller closes
// it.
func Resident(l *latents.Set, dev torch.Device) (*ResidentLatents, error) {
	set, err := SetOf(l).WithText(l)
	if err != nil {
		return nil, err
	}
	r := &ResidentLatents{latents: l, set: set, comparison: &Comparison{latents: l}}
	m := l.Manifest()
	dtype := torch.Float32
	if m.DType == checkpoint.F16 {
		dtype = torch.Float16
	}
	err = torch.Run(dev, func(s *torch.Scope) error {
		views := 1
		if m.Flip {
			views = 2
		}
		for v := range views {
			x := torch.Persist(s.Empty(dtype, l.Len(), 2*m.Channels, m.Height, m.Width))
			r.views = append(r.views, x)
			if err := x.Fill(func(p []byte, off int64) error { return l.ReadStored(p, v == 1, off) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("latents %s: into the memory of %s: %w", l.Dir(), dev, err)
	}
	return r, nil
}

// ResidentLatents is what [Resident] returns.
type ResidentLatents struct {
	latents    *latents.Set
	set        Set
	comparison *Comparison
	views      []*torch.Tensor // [N, 2C, h, w], as they are stored
}

// Close frees the memory.
func (r *ResidentLatents) Close() {
	for _, x := range r.views {
		x.Close()
	}
	r.views = nil
}

// Set describes the latents.
func (r *ResidentLatents) Set() Set { return r.set }

// Batches gathers the same batches as the latents would give from disk.
func (r *ResidentLatents) Batches(ctx context.Context, o stream.Options) iter.Seq2[Batch, error] {
	o.Records = true
	return r.comparison.during(o, func(yield func(Batch, error) bool) {
		for b, err := range stream.Batches(ctx, r.latents, o) {
			if err != nil {
				yield(Batch{}, err)
				return
			}
			if !yield(Batch{b, func(s *torch.Scope) *torch.Tensor { return r.moments(s, b) }}, nil) {
				return
			}
		}
	})
}

func (r *ResidentLatents) moments(s *torch.Scope, b *stream.Batch) *torch.Tensor {
	n := len(b.Records)
	records, mirrored := make([]int64, n), make([]float32, n)
	for i, record := range b.Records {
		records[i] = int64(record)
		if b.Mirrored[i] {
			mirrored[i] = 1
		}
	}
	at := torch.From(s, records, n)
	x := s.To(s.IndexSelect(r.views[0], 0, at), torch.Float32)
	if len(r.views) == 1 {
		return x
	}
	return s.Where(s.GtScalar(torch.From(s, mirrored, n, 1, 1, 1), 0.5),
		s.To(s.IndexSelect(r.views[1], 0, at), torch.Float32), x)
}
