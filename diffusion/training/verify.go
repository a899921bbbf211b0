package training

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/torch"
)

// A comparison compares the latents of a run with their checksums, once, in the background of its first batches. Each
// process of a run does its share.
type comparison struct {
	latents *latents.Set
	mu      sync.Mutex
	running *latents.Comparison
	done    bool // with the error that follows
	err     error
}

// during passes batches on while latents are compared. Once damage is found, the next batch is an error instead.
func (c *comparison) during(o stream.Options, batches iter.Seq2[Batch, error]) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		c.start(o.Share)
		for b, err := range batches {
			if damage := c.damage(); damage != nil {
				err = damage
			}
			if err != nil {
				yield(Batch{}, err)
				return
			}
			if !yield(b, nil) {
				return
			}
		}
	}
}

func (c *comparison) start(share stream.Share) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil && !c.done {
		c.running = c.latents.Compare(share.Rank, share.World)
	}
}

// underWay says whether there is still something to compare.
func (c *comparison) underWay() bool {
	c.damage()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running != nil
}

// damage returns what was found so far.
func (c *comparison) damage() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil {
		if done, err := c.running.Result(); done {
			c.running, c.done, c.err = nil, true, err
		}
	}
	return c.err
}

// wait waits for what is left to compare.
func (c *comparison) wait(ctx context.Context) error {
	c.mu.Lock()
	running := c.running
	c.mu.Unlock()
	if running != nil {
		if err := running.Wait(ctx); err != nil {
			return err
		}
	}
	return c.damage()
}

// verify compares the shards of the given samples now.
func (c *comparison) verify(ids []int) error {
	return c.latents.VerifySamples(context.Background(), ids)
}

// stop ends it.
func (c *comparison) stop() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil {
		c.running.Stop()
		c.running = nil
	}
}

// comparison is that of the run's source, nil where there is nothing to compare.
func (r *runner) comparison() *comparison {
	switch s := r.source.(type) {
	case stored:
		return s.comparison
	case *ResidentLatents:
		return s.comparison
	}
	return nil
}

// finishComparison waits until all latents have been compared with their checksums: what a run has made of damaged
// ones does not count. It warns where that takes longer than a moment.
func (r *runner) finishComparison(ctx context.Context) error {
	c := r.comparison()
	if c == nil {
		return nil
	}
	if r.hooks.Warn != nil && c.underWay() {
		const moment = 2 * time.Second
		tell := time.AfterFunc(moment, func() {
			r.hooks.Warn("the steps are done and saved; what is left of the latents is compared with its checksums")
		})
		defer tell.Stop()
	}
	err := c.wait(ctx)
	if err == nil {
		r.checks.flush(r)
	}
	return err
}

// badData says what is wrong with the latents of a batch, "" where nothing is: that their files are damaged, or which
// of them are not finite numbers, and whether it is all.
func (r *runner) badData(s *torch.Scope, x0 *torch.Tensor, ids []int) string {
	c := r.comparison()
	if c != nil {
		if err := c.verify(ids); err != nil {
			return err.Error()
		}
	}
	n := len(ids)
	var bad []string
	s = s.NoGrad()
	for i, v := range torch.Data[float64](s.SumDims(s.To(x0, torch.Float64), false, 1, 2, 3)) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			bad = append(bad, strings.TrimPrefix(r.sampleName(ids[i]), "sample "))
		}
	}
	what, advice := "samples", "encode them again"
	if _, ok := r.source.(pictures); ok { // which are encoded at every step
		what, advice = "pictures", "look at them, since the autoencoder can encode others"
		if len(bad) == n {
			advice = "the autoencoder is damaged, or its precision is too narrow"
		}
	}
	switch {
	case len(bad) == 0:
		return ""
	case len(bad) == n:
		return fmt.Sprintf("the latents of %s %s are not finite numbers: %s (they are all %d of the batch)", what,
			some(bad, 8), advice, n)
	}
	return fmt.Sprintf("the latents of %s %s are not finite numbers: %s (those of the other %d of the batch are)",
		what, some(bad, 8), advice, n-len(bad))
}

// sampleName is what people know a sample by.
func (r *runner) sampleName(id int) string {
	if p, ok := r.source.(pictures); ok {
		return p.src.Sample(id).Name
	}
	return fmt.Sprintf("sample %d", id)
}
