package sampling

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"math"

	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// Options of [Open]. The zero value takes what belongs to the checkpoint and to the device.
type Options struct {
	// VAE is the path of the autoencoder, which must be the one that made the model's latents; "" takes the one that
	// belongs to the model (see [Autoencoder]).
	VAE string
	// Guide is the path of a weaker model that guidance leads away from, see [Request]; "" means that there is none.
	Guide string
	// Model names the sizes of a model whose file does not say them, see dit.Read.
	Model string
	// Precision of both models: fp32, tf32 or bf16; "" means tf32 on CUDA, else fp32. Under bf16 the weights of matrix
	// products and of the whole autoencoder are cast once, when they are loaded. Timesteps, the sum of the conditioning
	// and the arithmetic of the latents are Float32 in each, and so is the sum that the blocks of the model add to.
	Precision nn.Precision
}

// A Pipeline is an opened checkpoint with its autoencoder.
type Pipeline struct {
	dev   torch.Device
	model *dit.DiT
	info  dit.Info
	vae   *vae.AutoencoderKL
	guide *dit.DiT // nil without one
	found string   // what the checkpoint is, in one line
	// Those of the guide.
	guideFound, guidePath, guideWeights string
	notes                               []string

	precision nn.Precision

	vaePath string
	path    string // of the weight file
	weights string // SHA-256 of the model's, "" where no file holds it
}

// Open reads the model at ckpt and its autoencoder. See dit.Read for what ckpt can be.
func Open(dev torch.Device, ckpt string, o Options) (*Pipeline, error) {
	precision := o.Precision.On(dev)
	if err := precision.Validate(); err != nil {
		return nil, err
	}
	w, err := dit.Read(ckpt, o.Model)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	p := &Pipeline{dev: dev, info: w.Info, notes: w.Notes, precision: precision, vaePath: o.VAE, path: w.Path}
	if o.VAE == "" {
		if p.vae, p.vaePath, err = openVAE(dev, w); err != nil {
			return nil, fmt.Errorf("sample from %s: %w", ckpt, err)
		}
	} else if p.vae, err = vae.Open(o.VAE, dev); err != nil {
		return nil, err
	}
	err = torch.Run(dev, func(s *torch.Scope) (err error) {
		p.model, err = w.Load(s)
		return err
	})
	if err == nil {
		p.weights = w.SignedSHA256()
		if w.Layout != dit.Ours {
			p.info.ScalingFactor = p.vae.Config().ScalingFactor
		}
		// Files of other programs do not say what these are: now they are known.
		w.ScalingFactor, w.ImageSize = p.info.ScalingFactor, p.info.Config.InputSize*p.vae.Config().Downsample()
		p.info.ImageSize, p.found = w.ImageSize, w.String()
		err = p.check(ckpt)
	}
	if err == nil && o.Guide != "" {
		err = p.openGuide(o.Guide)
	}
	if err == nil {
		err = p.cast()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// cast brings the weights of both models to the type of the precision.
func (p *Pipeline) cast() error {
	return torch.Run(p.dev, func(s *torch.Scope) error {
		model, decoder := p.model.As(s, p.precision.DType()), p.vae.As(s, p.precision.DType())
		take(model, p.model)
		take(decoder, p.vae)
		p.model, p.vae = model, decoder
		if p.guide != nil {
			guide := p.guide.As(s, p.precision.DType())
			take(guide, p.guide)
			p.guide = guide
		}
		return nil
	})
}

// take keeps the tensors of the module m, and frees those of old that m does not have.
func take(m, old any) {
	kept := map[*torch.Tensor]bool{}
	for _, t := range nn.Params(m) {
		kept[torch.Persist(t)] = true
	}
	for _, t := range nn.Params(old) {
		if !kept[t] {
			t.Close()
		}
	}
}

// Precision is that of both models.
func (p *Pipeline) Precision() nn.Precision { return p.precision }

// WeightsSHA256 returns the hex SHA-256 of the weight files of the model and its autoencoder. That of the model is
// "" where no file beside it holds it: to read it all again takes a while.
func (p *Pipeline) WeightsSHA256() (model, vae string) { return p.weights, p.vae.WeightsSHA256() }

// GuideSHA256 returns the hex SHA-256 of the weight file of the guide, "" without one and where no file beside it holds
// it.
func (p *Pipeline) GuideSHA256() string { return p.guideWeights }

// Found says in one line what the checkpoint is, with the picture size and the scaling factor that are used, and notes
// what was assumed about it.
func (p *Pipeline) Found() (line string, notes []string) { return p.found, p.notes }

// VAE says which autoencoder decodes, with the scaling factor that is used, and notes what was assumed about it.
func (p *Pipeline) VAE() (path string, cfg vae.Config, notes []string) {
	cfg = p.vae.Config()
	cfg.ScalingFactor = p.info.ScalingFactor
	return p.vaePath, cfg, p.vae.Notes()
}

// Device computes.
func (p *Pipeline) Device() torch.Device { return p.dev }

func (p *Pipeline) check(ckpt string) error {
	v := p.vae.Config()
	if v.LatentChannels != p.info.Config.InChannels {
		return fmt.Errorf("vae %s has %s, the model in %s wants %d", p.vaePath,
			names.Plural(v.LatentChannels, "latent channel"), ckpt, p.info.Config.InChannels)
	}
	if v.OutChannels != 3 {
		return fmt.Errorf("vae %s makes pictures of %s, want 3", p.vaePath, names.Plural(v.OutChannels, "channel"))
	}
	if f := p.info.ScalingFactor; !(f > 0) || math.IsInf(f, 0) {
		return fmt.Errorf("checkpoint %s has a scaling factor of %v, want a positive number", ckpt, f)
	}
	if p.info.VAE != "" && p.info.VAE != p.vae.WeightsSHA256() {
		return fmt.Errorf("vae %s is not the one that made the latents of %s (weights %.12s, want %.12s)", p.vaePath,
			ckpt, p.vae.WeightsSHA256(), p.info.VAE)
	}
	return nil
}

// Close frees the weights.
func (p *Pipeline) Close() {
	if p.model != nil {
		nn.Close(p.model)
	}
	if p.vae != nil {
		nn.Close(p.vae)
	}
	if p.guide != nil {
		nn.Close(p.guide)
	}
}

// Info returns what the checkpoint says of itself.
func (p *Pipeline) Info() dit.Info { return p.info }

// PictureSize returns the height and width of the pictures.
func (p *Pipeline) PictureSize() (height, width int) {
	c, f := p.info.Config, p.vae.Config().Downsample()
	return c.InputSize * f, c.Width() * f
}

// Sample draws pictures.
func (p *Pipeline) Sample(ctx context.Context, r Request) (out Pictures, err error) {
	for b, err := range p.Batches(ctx, r) {
		if err != nil {
			return Pictures{}, err
		}
		out.Pix, out.Height, out.Width = append(out.Pix, b.Pix...), b.Height, b.Width
	}
	return out, nil
}

// Batches draws the pictures of [Pipeline.Sample], BatchSize at a time, in order. Its memory does not grow with their
// number. While a batch is used, the next one is drawn, on another goroutine: the one that calls Progress and Warn of
// the request. An error is the last that it yields.
func (p *Pipeline) Batches(ctx context.Context, r Request) iter.Seq2[Pictures, error] {
	return func(yield func(Pictures, error) bool) {
		for b, err := range p.Some(ctx, r, nil) {
			if !yield(b.Pictures, err) {
				return
			}
		}
	}
}

// A Batch is the pictures of a request from number First on, which is a multiple of its BatchSize.
type Batch struct {
	First int
	Pictures
}

// Some is [Pipeline.Batches] for the batches whose numbers, from 0, next returns, until it returns false. Each has the
// pixels that it would have among all: several processes can share a set, and one continues what another has begun.
// Next is called on the goroutine that draws, before each batch, while batches before it may not have been used yet;
// it may wait, until its context ends. Progress counts the steps of batches in the order in which they are drawn.
func (p *Pipeline) Some(ctx context.Context, r Request,
	next func(context.Context) (batch int, ok bool, err error)) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		r.Process, r.Guide = &p.info.Process, p.guide
		d, err := newDrawing(p.model, r)
		if err != nil {
			yield(Batch{}, err)
			return
		}
		d.next = next
		p.batches(ctx, d)(yield)
	}
}

func (p *Pipeline) batches(ctx context.Context, d *drawing) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		type batch struct {
			Batch
			err error
		}
		ctx, cancel := context.WithCancel(ctx)
		drawn := make(chan batch)
		go func() {
			defer close(drawn)
			if err := p.draw(ctx, d, func(out Batch) { drawn <- batch{Batch: out} }); err != nil {
				drawn <- batch{err: err}
			}
		}()
		defer func() {
			cancel()
			for range drawn { // until it has ended
			}
		}()
		for b := range drawn {
			if !yield(b.Batch, b.err) || b.err != nil {
				return
			}
		}
	}
}

// draw draws batch after batch and gives the pictures of each to use, which may wait for others that compute. A GPU
// decodes one while it draws the next.
func (p *Pipeline) draw(ctx context.Context, d *drawing, use func(Batch)) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	decode := func(s *torch.Scope, first int, x *torch.Tensor) error {
		if err := d.checkFinite(s, x); err != nil {
			return err
		}
		if d.Latents != nil {
			d.Latents(torch.Data[float32](s.Contiguous(x)), x.Shape())
		}
		out, err := Decode(ctx, s, p.vae, x, p.info.ScalingFactor)
		if err == nil {
			s.Pause(func() { use(Batch{first, out}) })
		}
		return err
	}
	run := func(f func(s *torch.Scope) error) error {
		return torch.Run(p.dev, func(s *torch.Scope) error { return f(p.precision.Scope(s)) })
	}
	if !d.decodeAside {
		return run(func(s *torch.Scope) error { return d.run(ctx, s, decode) })
	}
	type undecoded struct {
		first int
		x     *torch.Tensor
	}
	latents, followed := make(chan undecoded), make(chan struct{})
	ready, decoded := make(chan struct{}), make(chan error)
	go func() {
		decoded <- run(func(s *torch.Scope) error {
			return s.Aside(func(s *torch.Scope, follow func()) (err error) {
				close(ready)
				for {
					var z undecoded
					s.Pause(func() { z = <-latents })
					if z.x == nil { // there are no more
						return err
					}
					err = cmp.Or(err, s.Try(func(*torch.Scope) error { follow(); return nil }))
					followed <- struct{}{}
					if err == nil {
						err = s.Try(func(s *torch.Scope) error { return decode(s, z.first, z.x) })
					}
					if err != nil {
						stop(err)
					}
					z.x.Close()
				}
			})
		})
	}()
	err := run(func(s *torch.Scope) error {
		return d.run(ctx, s, func(s *torch.Scope, first int, x *torch.Tensor) error {
			select {
			case <-ready:
				x := torch.Persist(s.Clone(x))
				s.Pause(func() {
					latents <- undecoded{first, x}
					<-followed // else decoding would wait for steps of the next batch
				})
				return nil
			default: // as long as other work has all places of torch.Run
				return decode(s, first, x)
			}
		})
	})
	close(latents)
	return cmp.Or(<-decoded, err)
}

// Key names the pictures of r, by the weights of both models and everything in the request that they depend on. What
// depends on the machine alone, such as the number of threads, is not in it.
func (p *Pipeline) Key(r Request) (string, error) {
	r.Process, r.Guide = &p.info.Process, p.guide
	if err := r.prepare(p.info.Config); err != nil {
		return "", err
	}
	h := sha256.New()
	of := []any{
		"pictures 1", p.info.Config, p.info.ScalingFactor, p.vae.Config(), p.vae.WeightsSHA256(), r.NumSamples,
		r.CFGScale, r.Guided, r.Steps, r.Solver, r.Seed, r.RNG, r.BatchSize, r.First, len(r.Labels), len(r.Captions),
		p.precision,
	}
	// What is new keeps the keys of pictures that were begun before.
	if p.info.Process.IsFlow() || r.Timesteps != respaced {
		of = append(of, p.info.Process, r.Timesteps)
	}
	if r.GuidanceInterval != [2]float64{} {
		of = append(of, r.GuidanceInterval)
	}
	if r.GuidanceRescale != 0 {
		of = append(of, "rescale", r.GuidanceRescale)
	}
	if r.SDE != (solver.SDE{}) {
		of = append(of, r.SDE)
	}
	if r.Guide != nil {
		of = append(of, "guide", r.Guide.Config())
	}
	if !torch.Fused() { // which rounds otherwise
		of = append(of, "no fused")
	}
	err := json.NewEncoder(h).Encode(of)
	if err != nil {
		return "", err
	}
	err = torch.Run(p.dev, func(*torch.Scope) error {
		for name, t := range nn.Params(p.model) {
			fmt.Fprintln(h, name, t.Shape())
			h.Write(t.Bytes())
		}
		if r.Guide != nil {
			for name, t := range nn.Params(r.Guide) {
				fmt.Fprintln(h, "guide", name, t.Shape())
				h.Write(t.Bytes())
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	write := func(v any) { binary.Write(h, binary.LittleEndian, v) } // a hash takes everything
	for _, y := range r.Labels {
		write(int64(y))
	}
	// Pictures of one prompt share its states.
	numbers := map[*float32]int64{}
	caption := func(c Caption) {
		if len(c.States) == 0 {
			return
		}
		number, ok := numbers[&c.States[0]]
		if !ok {
			number = int64(len(numbers))
			numbers[&c.States[0]] = number
			write(c.States)
		}
		write([2]int64{number, int64(c.Length)})
	}
	caption(r.Null)
	for _, c := range r.Captions {
		caption(c)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
