package samples

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/torch"
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
	views := 1
	if m.Flip {
		views = 2
	}
	err = torch.Run(dev, func(s *torch.Scope) error {
		r.views = torch.Persist(s.Empty(dtypeOf(m), views*l.Len(), 2*m.Channels, m.Height, m.Width))
		view := int64(l.Len()) * int64(l.RecordBytes())
		return r.views.Fill(func(p []byte, off int64) error {
			for len(p) > 0 { // what Fill asks for at once may begin in one view and end in the other
				n := min(int64(len(p)), view-off%view)
				if err := l.ReadStored(p[:n], off >= view, off%view); err != nil {
					return err
				}
				p, off = p[n:], off+n
			}
			return nil
		})
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
	views      *torch.Tensor // [V N, 2C, h, w], as they are stored: all records, then all mirrored ones
}

// Close frees the memory.
func (r *ResidentLatents) Close() {
	if r.views != nil {
		r.views.Close()
	}
}

// Set describes the latents.
func (r *ResidentLatents) Set() Set { return r.set }

// Input is the places of the records among those on the device.
func (r *ResidentLatents) Input() Input {
	last := float64(r.views.Dim(0) - 1)
	return Input{torch.Int64, nil, func(s *torch.Scope, at *torch.Tensor) *torch.Tensor {
		return s.To(s.IndexSelect(r.views, 0, s.Clamp(at, 0, last)), torch.Float32)
	}}
}

// Batches gathers the same batches as the latents would give from disk.
func (r *ResidentLatents) Batches(ctx context.Context, o stream.Options) iter.Seq2[Batch, error] {
	o.Records = true
	return r.comparison.during(o, func(yield func(Batch, error) bool) {
		var places []byte
		for b, err := range stream.Batches(ctx, r.latents, o) {
			if err != nil {
				yield(Batch{}, err)
				return
			}
			places = places[:0]
			for i, record := range b.Records {
				if b.Mirrored[i] {
					record += r.latents.Len()
				}
				places = binary.LittleEndian.AppendUint64(places, uint64(record))
			}
			if !yield(Batch{b, places}, nil) {
				return
			}
		}
	})
}
