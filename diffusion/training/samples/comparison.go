package samples

import (
	"context"
	"iter"
	"sync"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/stream"
)

// A Comparison compares the latents of a run with their checksums, once, in the background of its first batches. Each
// process of a run does its share.
type Comparison struct {
	latents *latents.Set
	mu      sync.Mutex
	running *latents.Comparison
	done    bool // with the error that follows
	err     error
}

// during passes batches on while latents are compared. Once damage is found, the next batch is an error instead.
func (c *Comparison) during(o stream.Options, batches iter.Seq2[Batch, error]) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		c.start(o.Share)
		for b, err := range batches {
			if damage := c.Damage(); damage != nil {
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

func (c *Comparison) start(share stream.Share) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil && !c.done {
		c.running = c.latents.Compare(share.Rank, share.World)
	}
}

// UnderWay says whether there is still something to compare.
func (c *Comparison) UnderWay() bool {
	c.Damage()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running != nil
}

// Damage returns what was found so far.
func (c *Comparison) Damage() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil {
		if done, err := c.running.Result(); done {
			c.running, c.done, c.err = nil, true, err
		}
	}
	return c.err
}

// Wait waits for what is left to compare.
func (c *Comparison) Wait(ctx context.Context) error {
	c.mu.Lock()
	running := c.running
	c.mu.Unlock()
	if running != nil {
		if err := running.Wait(ctx); err != nil {
			return err
		}
	}
	return c.Damage()
}

// Verify compares the shards of the given samples now.
func (c *Comparison) Verify(ids []int) error {
	return c.latents.VerifySamples(context.Background(), ids)
}

// Stop ends it. There may be none.
func (c *Comparison) Stop() {
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

// ComparisonOf returns that of a source, nil where there is nothing to compare.
func ComparisonOf(src Source) *Comparison {
	switch s := src.(type) {
	case stored:
		return s.comparison
	case *ResidentLatents:
		return s.comparison
	}
	return nil
}
