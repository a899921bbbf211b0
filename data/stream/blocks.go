package stream

import (
	"context"
	"iter"
	"sync"

	"github.com/ditrun/ditrun/data/latents"
)

// blockReader reads the blocks of BlockOrder into the page cache before their records are used, so that the disk is
// asked for whole blocks alone. Processes of one machine read the same windows at about the same time, and share
// that cache.
type blockReader struct {
	l        *latents.Set
	perBlock int // records
	batch    int // the global one
	flip     bool
}

func newBlockReader(l *latents.Set, batch int, flip bool) *blockReader {
	return &blockReader{l: l, perBlock: (blockBytes + l.RecordBytes() - 1) / l.RecordBytes(), batch: batch, flip: flip}
}

// permute is the order of an epoch.
func (r *blockReader) permute(seed uint32, epoch, n int) []int {
	return blockOrder(seed, epoch, n, r.perBlock)
}

// ahead yields tasks, those of one window after their blocks were read. The next window is read meanwhile.
func (r *blockReader) ahead(ctx context.Context, tasks iter.Seq[task]) iter.Seq[task] {
	return func(yield func(task) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		windows := make(chan []task)
		wg.Go(func() {
			defer close(windows)
			for w := range r.windows(tasks) {
				r.read(ctx, w)
				select {
				case windows <- w:
				case <-ctx.Done():
					return
				}
			}
		})
		for {
			select {
			case w, ok := <-windows:
				if !ok {
					return
				}
				for _, t := range w {
					if !yield(t) {
						return
					}
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// windows collects the tasks that begin in the same window.
func (r *blockReader) windows(tasks iter.Seq[task]) iter.Seq[[]task] {
	return func(yield func([]task) bool) {
		var w []task
		for t := range tasks {
			if len(w) > 0 && r.window(t) != r.window(w[0]) {
				if !yield(w) {
					return
				}
				w = nil
			}
			w = append(w, t)
		}
		if len(w) > 0 {
			yield(w)
		}
	}
}

// window is the epoch and number of the window that a task begins in.
func (r *blockReader) window(t task) [2]int {
	start := t.at.Batch%(r.l.Len()/r.batch)*r.batch + t.at.Slot
	return [2]int{t.at.Epoch, start / (r.perBlock * windowBlocks)}
}

// blockRequests is how many blocks are requested at once: storage behind a network is faster with several.
const blockRequests = 4

// read reads the blocks that hold records of tasks. It ignores errors, as reading the records will return them.
func (r *blockReader) read(ctx context.Context, tasks []task) {
	buffers := make(chan []byte, blockRequests)
	for range blockRequests {
		buffers <- make([]byte, r.perBlock*r.l.RecordBytes())
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	fetched := map[int]bool{}
	for _, t := range tasks {
		for _, i := range t.items {
			b := i / r.perBlock
			if fetched[b] {
				continue
			}
			fetched[b] = true
			buf := <-buffers
			if ctx.Err() != nil {
				return
			}
			wg.Go(func() {
				r.l.Fetch(buf, b*r.perBlock, min((b+1)*r.perBlock, r.l.Len()), r.flip)
				buffers <- buf
			})
		}
	}
}
