// Package sampling turns a checkpoint, an autoencoder and labels or prompts into pictures.
//
//	p, err := sampling.Open(torch.CPU, "results/000-DiT-XL-2", sampling.Options{})
//	pictures, err := p.Sample(ctx, sampling.Request{Labels: []int{207, 360}, CFGScale: 4, Steps: "250"})
//	err = sheet.WritePNG("dog.png", pictures.Images()[0])
//
// [Pipeline.Encode] makes a request of prompts, [Pipeline.Batches] yields many pictures batch by batch, and
// [Preview] is what a training run shows of itself. The [example] runs on a tiny model.
//
// [example]: https://pkg.go.dev/github.com/ditrun/ditrun/diffusion/sampling#example-package
package sampling

import (
	"context"
	"fmt"
	"math"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/gaussian"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
)

// Latents draws scaled latents [n, C, I, J], Float32, for the request with the model in the scope s. It computes in the
// precision of the model ([dit.DiT.As]) and of s ([torch.Scope.TF32]).
func Latents(ctx context.Context, s *torch.Scope, model *dit.DiT, r Request) (*torch.Tensor, error) {
	d, err := newDrawing(model, r)
	if err != nil {
		return nil, err
	}
	s = s.NoGrad()
	var parts []*torch.Tensor
	for b := range d.batches() {
		x, err := d.latents(ctx, s, b)
		if err != nil {
			return nil, err
		}
		parts = append(parts, x)
	}
	return s.Cat(parts, 0), nil
}

// A drawing is a request that was found to be possible.
type drawing struct {
	Request
	model   *dit.DiT
	process *schedule.Schedule
	sampler gaussian.Sampler
	// generator is the device whose generator RNG "torch" draws from: the model's, as in the original. Each kind of
	// device has its own numbers.
	generator torch.Device
}

func newDrawing(model *dit.DiT, r Request) (*drawing, error) {
	if err := r.prepare(model.Config()); err != nil {
		return nil, err
	}
	process, err := gaussian.New(r.Steps)
	if err != nil {
		return nil, err
	}
	sampler, err := gaussian.ParseSampler(r.Sampler)
	if err != nil {
		return nil, err
	}
	return &drawing{r, model, process, sampler, model.PosEmbed.Device()}, nil
}

func (d *drawing) batches() int { return (d.Len() + d.BatchSize - 1) / d.BatchSize }

// latents draws those of batch b.
func (d *drawing) latents(ctx context.Context, s *torch.Scope, b int) (*torch.Tensor, error) {
	lo, hi := b*d.BatchSize, min((b+1)*d.BatchSize, d.Len())
	noise, err := newSource(d.generator, &d.Request, lo, hi, d.model.Config())
	if err != nil {
		return nil, err
	}
	solver := d.sampler.Solver(s, d.process)
	x, err := draw(ctx, s, d.model, solver, &d.Request, lo, hi, noise, func(k int) {
		if d.Progress != nil {
			d.Progress(b*d.process.Len()+k, d.batches()*d.process.Len())
		}
	})
	if err != nil {
		return nil, err
	}
	if !finite(s, x) {
		return nil, fmt.Errorf("sample: the latents are not finite numbers: the weights are damaged, or the "+
			"guidance scale %v is too large", d.CFGScale)
	}
	return x, nil
}

// finite says whether all of x are finite numbers. It waits for the device.
func finite(s *torch.Scope, x *torch.Tensor) bool {
	ok := true
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		v := s.Sum(s.To(x, torch.Float64)).Item()
		ok = !math.IsNaN(v) && !math.IsInf(v, 0)
		return nil
	})
	return ok
}

// draw runs the reverse process for the pictures lo to hi-1 from the given noise.
func draw(ctx context.Context, s *torch.Scope, model *dit.DiT, solver diffusion.Solver, r *Request, lo, hi int,
	noise source, done func(k int)) (*torch.Tensor, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return diffusion.Sample(s, solver, guide(s, model, r, lo, hi), noise.start(s), noise.step, func(k int) error {
		done(k)
		return context.Cause(ctx)
	})
}

// guide returns the model under the condition of pictures lo to hi-1, with classifier-free guidance where the request
// asks for it.
func guide(s *torch.Scope, model *dit.DiT, r *Request, lo, hi int) diffusion.Denoiser {
	cond := r.condition(s, model.Config(), lo, hi)
	if !r.guided() {
		return func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor { return model.Forward(s, x, t, cond) }
	}
	return func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		return model.ForwardWithCFG(s, x, t, cond, r.CFGScale, r.Guided)
	}
}

// condition is that of pictures lo to hi-1, and behind it under guidance what to lead them away from.
func (r *Request) condition(s *torch.Scope, cfg dit.Config, lo, hi int) (c dit.Condition) {
	nulls := 0
	if r.guided() {
		nulls = hi - lo
	}
	if cfg.HasClass() {
		var y []int64
		for _, label := range r.Labels[lo:hi] {
			y = append(y, int64(label))
		}
		for range nulls {
			y = append(y, int64(cfg.NullClass()))
		}
		c.Labels = torch.From(s, y, len(y))
	}
	if cfg.HasText() {
		var states []float32
		var lengths []int64
		for i := lo; i < hi+nulls; i++ {
			caption := r.Null
			if i < hi {
				caption = r.Captions[i]
			}
			states, lengths = append(states, caption.States...), append(lengths, int64(caption.Length))
		}
		c.Tokens = torch.From(s, states, len(lengths), cfg.TextLength, cfg.TextWidth)
		c.Lengths = torch.From(s, lengths, len(lengths))
	}
	return c
}

// A source gives the noise of a batch: where it starts from, and what the k-th step adds.
type source interface {
	start(s *torch.Scope) *torch.Tensor
	step(s *torch.Scope, k *torch.Tensor) *torch.Tensor // k of one element
}

// newSource returns the noise of pictures lo to hi-1 of r. Libtorch's generator is that of dev.
func newSource(dev torch.Device, r *Request, lo, hi int, cfg dit.Config) (source, error) {
	row := []int{cfg.InChannels, cfg.InputSize, cfg.Width()}
	if r.RNG == rngTorch {
		gen, err := torch.NewGenerator(dev, r.Seed)
		if err != nil {
			return nil, err
		}
		return &torchSource{dev, gen, hi - lo, r.guided(), row}, nil
	}
	n := &imageSource{seed: r.Seed, row: row}
	for i := lo; i < hi; i++ {
		n.indices = append(n.indices, int64(r.First+i))
	}
	return n, nil
}

// An imageSource names each draw by the seed, the picture and the step.
type imageSource struct {
	seed    uint64
	indices []int64
	row     []int // C, I, J
}

func (n *imageSource) start(s *torch.Scope) *torch.Tensor {
	return n.draw(s, philox.TagStartNoise, s.Zeros(torch.Int64, 1))
}

func (n *imageSource) step(s *torch.Scope, k *torch.Tensor) *torch.Tensor {
	return n.draw(s, philox.TagStepNoise, k)
}

func (n *imageSource) draw(s *torch.Scope, tag uint32, k *torch.Tensor) *torch.Tensor {
	return s.PhiloxNormal(n.seed, tag, k, torch.From(s, n.indices, len(n.indices)), n.row...)
}

// A torchSource draws from libtorch's generator in the order of the original, which draws each step's
// noise for the doubled batch of guidance and never looks at the second half.
type torchSource struct {
	dev    torch.Device // of gen
	gen    *torch.Generator
	count  int // pictures
	guided bool
	row    []int // C, I, J
}

func (n *torchSource) start(s *torch.Scope) *torch.Tensor {
	return n.normals(s, n.count)
}

// normals draws those of count pictures where the generator is.
func (n *torchSource) normals(s *torch.Scope, count int) *torch.Tensor {
	x := s.ToDevice(s.Empty(torch.Float32, append([]int{count}, n.row...)...), n.dev)
	s.Normal_(x, n.gen, 0, 1)
	return s.ToDevice(x, s.Device())
}

func (n *torchSource) step(s *torch.Scope, _ *torch.Tensor) *torch.Tensor {
	if !n.guided {
		return n.start(s)
	}
	return s.Narrow(n.normals(s, 2*n.count), 0, 0, n.count)
}
