package catalog

import (
	"context"
	"runtime"

	"golang.org/x/sync/semaphore"
)

// defaultDecodeMemory is what decoders may take together where nobody says more.
const defaultDecodeMemory = 1 << 30

// collectAbove is what must be given back at once for a collection of garbage, of some milliseconds, to be nothing
// beside the decoding.
const collectAbove = 256 << 20

// budget shares memory among decoders: most pictures are small beside it, and a few large ones at once may be too much
// for a computer. libjpeg could decode to a smaller size, but the pixels would be others than Pillow's.
type budget struct {
	free *semaphore.Weighted
	all  int64
}

func newBudget(bytes int64) *budget {
	return &budget{semaphore.NewWeighted(bytes), bytes}
}

// take waits for n bytes, for all where n is more, and returns what gives them back. A nil budget has no end.
func (b *budget) take(ctx context.Context, n int64) (giveBack func(), err error) {
	if b == nil {
		return func() {}, nil
	}
	n = min(n, b.all)
	if err := b.free.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() {
		if n > collectAbove {
			runtime.GC() // what is given back should be free: the next picture may ask for as much
		}
		b.free.Release(n)
	}, nil
}
