package encode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/vae"
)

// encoder takes batches of pictures from a feeder and gives their latents to the claims of a writer.
type encoder struct {
	Options
	flip      bool
	model     *vae.AutoencoderKL // the VAE in the precision asked for
	done      int                // pictures, those of finished shards and of the one at hand
	stored    int                // pictures whose latents a claim took
	spoilt    int                // pictures of shards that cannot be made
	overflows int
	clipped   int
	oriented  int
	bad       []catalog.Bad
	waited    time.Duration
	last      time.Time
	claims    []*latents.Claim // all that the feeder got
	claiming  atomic.Bool      // the feeder looks for a claim

	scope   *torch.Scope    // of the whole run
	feed    *torch.Feed     // pixels, on their way to the device
	results *torch.Readback // moments, on their way back
	// unfinished is what the host has to do, in order: the first of it may be a batch that the device works on.
	unfinished []func() error
}

// lookEvery is how often an encoder without work looks what the others have done.
const lookEvery = 2 * time.Second

// A delivery is what the feeder sends: a batch of a claim, or, with no batch, that the claim has no more.
type delivery struct {
	claim *latents.Claim
	batch *stream.ImageBatch
	err   error
}

func (e *encoder) run(ctx context.Context, w *latents.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	deliveries, taken := make(chan delivery), make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(deliveries)
		e.decode(ctx, w, deliveries, taken)
	}()
	defer func() {
		cancel()
		<-ended
		for _, c := range e.claims { // what is not committed now never will be
			c.Abandon()
		}
	}()
	e.last = time.Now()
	return torch.Run(e.VAE.Device(), func(s *torch.Scope) error {
		e.scope = e.Precision.Scope(s.NoGrad())
		e.model = e.VAE.As(s, e.Precision.DType())
		plan := w.Plan()
		n := min(e.BatchSize, plan.ShardSize, plan.Dataset.Samples) // pictures at once, at most
		e.feed = torch.NewFeed(s, torch.Part{DType: torch.Uint8,
			Shape: []int{n, e.ImageSize.Height, e.ImageSize.Width, 3}})
		defer e.feed.Close()
		views := 1
		if e.flip {
			views = 2
		}
		e.results = torch.NewReadback(s, views*n*2*plan.Channels*plan.Height*plan.Width*torch.Float32.Size())
		defer e.results.Close()
		return e.encode(ctx, w, deliveries, taken)
	})
}

// decode decodes the pictures of one claim after the other, so that the first batch of the next shard is ready when the
// encoder is done with this one. A batch belongs to the encoder until it says that it has taken it.
func (e *encoder) decode(ctx context.Context, w *latents.Writer, deliveries chan<- delivery, taken <-chan struct{}) {
	send := func(d delivery) bool {
		select {
		case deliveries <- d:
			return true
		case <-ctx.Done():
			return false
		}
	}
	e.claiming.Store(true)
	for claim, err := range w.Claims(ctx, e.Rank, e.World) {
		if err != nil {
			send(delivery{err: err})
			return
		}
		e.claiming.Store(false)
		e.claims = append(e.claims, claim)
		pictures := stream.ImageRange(ctx, e.Source, claim.Lo, claim.Hi, stream.ImageOptions{
			Size: e.ImageSize, Batch: e.BatchSize, Workers: e.NumWorkers, Resampler: e.Resampler, KeepGoing: true})
		for b, err := range pictures {
			if !send(delivery{claim, b, err}) || err != nil {
				return
			}
			select {
			case <-taken:
			case <-ctx.Done():
				return
			}
		}
		e.claiming.Store(true)
		if !send(delivery{claim: claim}) {
			return
		}
	}
}

// encode makes the latents of the batches that are delivered. Batches start at a shard's first picture, so that its
// bytes do not depend on which shards were made before.
func (e *encoder) encode(ctx context.Context, w *latents.Writer, deliveries <-chan delivery,
	taken chan<- struct{}) error {
	spoilt := false // the shard has a bad picture: only look for more of them
	for {
		d, ok, err := e.next(w, deliveries)
		if err != nil {
			return err
		}
		if !ok {
			return ctx.Err()
		}
		if d.err != nil {
			return e.finishAfter(d.err)
		}
		if d.batch == nil {
			bad := spoilt
			e.later(func() error { return e.end(w, d.claim, bad) })
			spoilt = false
		} else if spoilt, err = e.take(d, spoilt, taken); err != nil {
			return err
		}
		if !e.behind {
			if err := e.finish(); err != nil {
				return err
			}
		}
	}
}

// later puts off what the host does until the device has another batch to work on, or none.
func (e *encoder) later(f func() error) { e.unfinished = append(e.unfinished, f) }

// finish does the rest of the batches that were begun.
func (e *encoder) finish() error {
	todo := e.unfinished
	e.unfinished = nil
	for _, f := range todo {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// finishAfter is finish after an error, which it returns: a shard may be whole.
func (e *encoder) finishAfter(err error) error {
	e.scope.Try(func(*torch.Scope) error { return e.finish() })
	return err
}

// end ends a shard.
func (e *encoder) end(w *latents.Writer, claim *latents.Claim, spoilt bool) error {
	if spoilt {
		e.spoilt += claim.Hi - claim.Lo
		claim.Abandon()
	} else if err := claim.Commit(); err != nil {
		return err
	}
	return e.recount(w)
}

// take begins to encode a batch, and then finishes the ones before. It returns whether the shard is spoilt.
func (e *encoder) take(d delivery, spoilt bool, taken chan<- struct{}) (bool, error) {
	b := d.batch
	for _, bad := range b.Bad {
		e.bad = append(e.bad, bad)
		e.OnBad(bad)
		if e.OnError == "fail" {
			spoilt = true
		} else if err := d.claim.Skip(bad.ID, e.Source.Sample(bad.ID), bad.Err.Error()); err != nil {
			return spoilt, err
		}
	}
	e.clipped += b.Clipped
	e.oriented += b.Oriented
	n := len(b.IDs) + len(b.Bad)
	store := func() error { return nil }
	if spoilt || len(b.IDs) == 0 {
		taken <- struct{}{}
	} else {
		err := e.scope.Try(func(s *torch.Scope) error {
			store = e.start(s, d.claim, b, taken)
			return nil
		})
		if err != nil {
			return spoilt, e.finishAfter(err)
		}
		if err := e.finish(); err != nil {
			return spoilt, err
		}
	}
	e.later(func() error {
		if err := store(); err != nil {
			return err
		}
		e.done += n
		e.report()
		return nil
	})
	return spoilt, nil
}

// next waits for a delivery; ok is false when there is none left. Where there is none yet, the rest of the batches
// before comes first: the device has nothing to do then but wait for pictures.
func (e *encoder) next(w *latents.Writer, deliveries <-chan delivery) (d delivery, ok bool, err error) {
	select {
	case d, ok = <-deliveries:
		if ok {
			return d, ok, nil
		}
	default:
	}
	if err := e.finish(); err != nil {
		return delivery{}, false, err
	}
	start := time.Now()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case d, ok = <-deliveries:
			e.waited += time.Since(start)
			return d, ok, nil
		case <-look.C:
			if e.claiming.Load() {
				if err := e.recount(w); err != nil {
					return delivery{}, false, err
				}
				p := e.progress()
				p.Others = true
				e.OnProgress(p)
				start, e.last = time.Now(), time.Now() // the pictures were not what it waited for
			}
		}
	}
}

// start gives the device a batch, in one upload, and has its moments brought back, in one read-back. It returns what
// stores them.
func (e *encoder) start(s *torch.Scope, claim *latents.Claim, b *stream.ImageBatch,
	taken chan<- struct{}) (store func() error) {
	copy(e.feed.Bytes(0), b.Pix)
	ids, labels := slices.Clone(b.IDs), slices.Clone(b.Labels)
	taken <- struct{}{}
	e.feed.Send()
	rgb := s.Narrow(e.feed.Tensor(0), 0, 0, len(ids))
	var kept *torch.Tensor
	if e.Precision == nn.FP16 { // which may not hold the moments, and then the next batch is where this one was
		kept = e.scope.Clone(rgb)
	}
	// Not in one batch: that takes twice the memory, and a CPU rounds one picture otherwise than two.
	views := []*torch.Tensor{moments(s, e.model, view(s, rgb, false))}
	if e.flip {
		views = append(views, moments(s, e.model, view(s, rgb, true)))
	}
	e.results.Start(s.Stack(views, 0))
	return func() error { return e.store(claim, ids, labels, kept) }
}

// view returns the pixels of pictures rgb [N, H, W, 3]. The latents of mirrored ones are not the mirror images of the
// latents: the encoder pads on one side.
func view(s *torch.Scope, rgb *torch.Tensor, mirrored bool) *torch.Tensor {
	x := vae.PixelsOf(s, rgb)
	if mirrored {
		x = s.Flip(x, 3)
	}
	return x
}

// store gives a claim the moments that were started first of those not stored yet.
func (e *encoder) store(claim *latents.Claim, ids []int, labels []int64, kept *torch.Tensor) error {
	plain, mirrored := torch.Received[float32](e.results), []float32(nil)
	if e.flip {
		n := len(plain) / 2
		plain, mirrored = plain[:n], plain[n:]
	}
	if kept != nil {
		plain, mirrored = e.inRange(plain, kept, false), e.inRange(mirrored, kept, true)
		e.scope.Release(kept)
	}
	err := claim.Add(ids, plain, mirrored, labels)
	if bad := (*latents.Unstorable)(nil); errors.As(err, &bad) {
		return e.explain(bad)
	}
	e.stored += len(ids)
	return err
}

// inRange returns moments of a view of pictures rgb. What float16 could not hold is made again in float32.
func (e *encoder) inRange(made []float32, rgb *torch.Tensor, mirrored bool) []float32 {
	if !slices.ContainsFunc(made, func(v float32) bool { return v-v != 0 }) {
		return made
	}
	e.overflows++
	e.scope.Sub(func(s *torch.Scope) *torch.Tensor {
		made = Moments(s, e.VAE, view(s, rgb, mirrored))
		return nil
	})
	return made
}

// explain words that latents cannot be stored: where it is one picture, that is to blame, and where it is all of
// them, the autoencoder or its precision.
func (e *encoder) explain(bad *latents.Unstorable) error {
	first, n := e.Source.Sample(bad.IDs[0]).Name, len(bad.IDs)
	last := e.Source.Sample(bad.IDs[n-1]).Name
	if bad.Mirrored {
		first += " (mirrored)"
	}
	what, cause := fmt.Sprintf("are not finite numbers (%v)", bad.Value), "the autoencoder is damaged"
	switch v := bad.Value; {
	case v-v == 0:
		what = fmt.Sprintf("are too large for float16 (%g)", v)
		cause = "--dtype fp32 stores them, if this is the autoencoder for such pictures"
	case e.Precision != nn.FP32:
		cause = fmt.Sprintf("the autoencoder is damaged, or its precision %s too narrow: try --precision fp32",
			e.Precision)
	}
	switch {
	case n < bad.Of:
		others := ""
		if n > 1 {
			others = " and of " + names.Plural(n-1, "other")
		}
		return fmt.Errorf("the latents of %s%s %s, those of the other %s in its batch are fine: look at this "+
			"picture", first, others, what, names.Plural(bad.Of-n, "picture"))
	case bad.Of == 1 && e.stored > 0:
		return fmt.Errorf("the latents of %s %s, those of the %s before it are fine: look at this picture",
			first, what, names.Plural(e.stored, "picture"))
	case bad.Of == 1:
		return fmt.Errorf("the latents of %s %s: look at this picture, or %s", first, what, cause)
	}
	return fmt.Errorf("the latents of all %d pictures from %s to %s %s: %s", n, first, last, what, cause)
}

// Moments returns mean and log variance [N, 2C, h, w] of the latents of x [N, 3, H, W], unscaled, in host memory.
func Moments(s *torch.Scope, m *vae.AutoencoderKL, x *torch.Tensor) []float32 {
	var out []float32
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		out = torch.Data[float32](moments(s, m, x))
		return nil
	})
	return out
}

// moments returns them as Float32 on the device.
func moments(s *torch.Scope, m *vae.AutoencoderKL, x *torch.Tensor) *torch.Tensor {
	return s.Sub(func(s *torch.Scope) *torch.Tensor {
		mean, logvar := m.Encode(s, x)
		return s.To(s.Cat([]*torch.Tensor{mean, logvar}, 1), torch.Float32)
	})
}

// recount counts what other processes have done too.
func (e *encoder) recount(w *latents.Writer) error {
	missing, err := w.Missing()
	if err != nil {
		return err
	}
	plan := w.Plan()
	e.done = plan.Dataset.Samples + e.spoilt
	for _, k := range missing {
		lo, hi := plan.Range(k)
		e.done -= hi - lo
	}
	return nil
}

// progress is how far the work is, but for the time that it waited.
func (e *encoder) progress() Progress {
	return Progress{Done: e.done, Total: e.Source.Len(), Encoded: e.stored, Overflows: e.overflows,
		Clipped: e.clipped, Oriented: e.oriented}
}

func (e *encoder) report() {
	now := time.Now()
	p := e.progress()
	if d := now.Sub(e.last); d > 0 {
		p.WaitShare = e.waited.Seconds() / d.Seconds()
	}
	e.waited, e.last = 0, now
	e.OnProgress(p)
}
