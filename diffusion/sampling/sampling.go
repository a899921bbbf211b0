// Package sampling turns a checkpoint, an autoencoder and labels or prompts into pictures.
//
//	p, err := sampling.Open(torch.CPU, "results/000-DiT-XL-2", sampling.Options{})
//	pictures, err := p.Sample(ctx, sampling.Request{Labels: []int{207, 360}, CFGScale: 4, Steps: "250"})
//	err = sheet.WritePNG("dog.png", pictures.Images()[0])
//
// [Pipeline.Encode] makes a request of prompts, [Pipeline.Batches] yields many pictures batch by batch,
// [Pipeline.Some] the batches of a set that others draw too, and [Preview] is what a training run shows of itself.
// The [example] runs on a tiny model.
//
// [example]: https://pkg.go.dev/github.com/ditrun/ditrun/diffusion/sampling#example-package
package sampling

import (
	"context"
	"fmt"
	"math"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// Latents draws scaled latents [n, C, I, J], Float32, for the request with the model in the scope s. It computes in the
// precision of the model ([dit.DiT.As]) and of s ([torch.Scope.TF32]).
func Latents(ctx context.Context, s *torch.Scope, model *dit.DiT, r Request) (*torch.Tensor, error) {
	d, err := newDrawing(model, r)
	if err != nil {
		return nil, err
	}
	return d.latents(ctx, s)
}

// latents are those of all pictures, in s.
func (d *drawing) latents(ctx context.Context, s *torch.Scope) (*torch.Tensor, error) {
	s = s.NoGrad()
	var parts []*torch.Tensor
	err := d.run(ctx, s, func(_ *torch.Scope, _ int, x *torch.Tensor) error {
		parts = append(parts, s.Clone(x))
		return d.checkFinite(s, x)
	})
	if err != nil {
		return nil, err
	}
	return s.Cat(parts, 0), nil
}

// A drawing is a request that was found to be possible.
type drawing struct {
	Request
	model *dit.DiT
	*plan
	// generator is the device whose generator RNG "torch" draws from: the model's, as in the original. Each kind of
	// device has its own numbers.
	generator   torch.Device
	capture     bool  // steps, see series
	decodeAside bool  // see Pipeline.draw
	room        int64 // bytes that a table of modulations may take
	// next is what [Pipeline.Some] is given; nil stands for all batches in order.
	next func(context.Context) (batch int, ok bool, err error)
}

func newDrawing(model *dit.DiT, r Request) (*drawing, error) {
	if err := r.prepare(model.Config()); err != nil {
		return nil, err
	}
	plan, err := r.plan()
	if err != nil {
		return nil, err
	}
	dev := model.PosEmbed.Device()
	return &drawing{Request: r, model: model, plan: plan, generator: dev, capture: dev.IsCUDA(),
		decodeAside: dev.IsCUDA(), room: roomForTable(dev)}, nil
}

func (d *drawing) batches() int { return (d.Len() + d.BatchSize - 1) / d.BatchSize }

// bounds are the first picture of batch b and the one after its last.
func (d *drawing) bounds(b int) (lo, hi int) { return b * d.BatchSize, min((b+1)*d.BatchSize, d.Len()) }

// nextBatch returns the number of the batch to draw after k others; false where there is none.
func (d *drawing) nextBatch(ctx context.Context, s *torch.Scope, k int) (b int, ok bool, err error) {
	if d.next == nil {
		return k, k < d.batches(), nil
	}
	s.Pause(func() { b, ok, err = d.next(ctx) })
	if err == nil && ok && (b < 0 || b >= d.batches()) {
		err = fmt.Errorf("sample: batch %d: the request has %d", b, d.batches())
	}
	return b, ok, err
}

// run draws batch after batch and gives the latents of each to use, with the number of its first picture, in a scope
// that ends with the batch. Nothing has waited for the device then, nor looked whether they are finite.
func (d *drawing) run(ctx context.Context, s *torch.Scope,
	use func(s *torch.Scope, first int, x *torch.Tensor) error) error {
	return s.NoGrad().Try(func(s *torch.Scope) error {
		solver := d.solver(s)
		modulations := newTable(s, d, solver)
		var v *series
		defer func() { v.close() }()
		for drawn := 0; ; drawn++ {
			b, ok, err := d.nextBatch(ctx, s, drawn)
			if err != nil || !ok {
				return err
			}
			lo, hi := d.bounds(b)
			if of := modulations.forBatch(d.classes(lo, hi)); v == nil || v.n != hi-lo || v.modulations != of {
				v.close()
				noise, err := newSource(s, d, hi-lo)
				if err != nil {
					return err
				}
				v = newSeries(s, d, solver, of, noise, hi-lo)
			}
			err = s.Try(func(s *torch.Scope) error {
				x, err := v.draw(ctx, s, lo, func(k int) {
					if d.Progress != nil {
						d.Progress(drawn*d.numSteps()+d.wholeSteps(k), d.batches()*d.numSteps())
					}
				})
				if err != nil {
					return err
				}
				return use(s, lo, s.To(x, torch.Float32))
			})
			if err != nil {
				return err
			}
		}
	})
}

// checkFinite returns an error where latents are not finite numbers. It waits for the device.
func (d *drawing) checkFinite(s *torch.Scope, x *torch.Tensor) (err error) {
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		if v := s.Sum(s.To(x, torch.Float64)).Item(); math.IsNaN(v) || math.IsInf(v, 0) {
			err = fmt.Errorf("sample: the latents are not finite numbers: the weights are damaged, or the guidance "+
				"scale %v is too large", d.CFGScale)
		}
		return nil
	})
	return err
}
