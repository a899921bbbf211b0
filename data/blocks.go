package data

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// blockReader reads the blocks of BlockOrder into the page cache before their records are used, so that the disk is asked for
// whole blocks alone. Processes of one machine read the same windows at about the same time, and share that cache.
type blockReader struct {
	l        *Latents
	perBlock int // records
	batch    int // the global one
	flip     bool
}

func newBlockReader(l *Latents, batch int, flip bool) *blockReader {
	return &blockReader{l: l, perBlock: (blockBytes + l.recordBytes() - 1) / l.recordBytes(), batch: batch, flip: flip}
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
	place := t.at.Batch%(r.l.Len()/r.batch)*r.batch + t.at.Slot
	return [2]int{t.at.Epoch, place / (r.perBlock * windowBlocks)}
}

// blockRequests is how many blocks are asked for at once: storage behind a network is faster with several.
const blockRequests = 4

// read reads the blocks that hold records of tasks. That it cannot is no error: reading the records will be one.
func (r *blockReader) read(ctx context.Context, tasks []task) {
	buffers := make(chan []byte, blockRequests)
	for range blockRequests {
		buffers <- make([]byte, r.perBlock*r.l.recordBytes())
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	seen := map[int]bool{}
	for _, t := range tasks {
		for _, i := range t.items {
			b := i / r.perBlock
			if seen[b] {
				continue
			}
			seen[b] = true
			buf := <-buffers
			if ctx.Err() != nil {
				return
			}
			wg.Go(func() {
				r.l.fetch(buf, b*r.perBlock, min((b+1)*r.perBlock, r.l.Len()), r.flip)
				buffers <- buf
			})
		}
	}
}

// recordBytes is the size of a stored record of one view.
func (l *Latents) recordBytes() int { return l.RecordLen() * l.m.DType.Size() }

// fetch reads records lo to hi-1 into the page cache by way of buf. The advice of madvise would do less: where a disk takes
// but small requests the system cuts what it is asked for down to one of them.
func (l *Latents) fetch(buf []byte, lo, hi int, flip bool) {
	size := l.recordBytes()
	for k := sort.SearchInts(l.starts, lo+1) - 1; lo < hi; k++ {
		end := min(hi, l.starts[k+1])
		f, err := os.Open(filepath.Join(l.dir, l.m.Shards[k].File))
		if err != nil {
			return
		}
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // else more would be read than is asked for
		s := l.shards[k]
		views := s.tensors[:1]
		if flip {
			views = s.tensors[:2]
		}
		for _, v := range views {
			_, _ = f.ReadAt(buf[:(end-lo)*size], v.Offset+int64((lo-l.starts[k])*size))
		}
		_ = f.Close()
		lo = end
	}
}

// ReadStored fills p with the stored records of one view, all of them one behind the other, from byte off on: what a
// reader that keeps the whole set elsewhere needs.
func (l *Latents) ReadStored(p []byte, flip bool, off int64) error {
	if flip && !l.m.Flip || off < 0 || off+int64(len(p)) > int64(l.Len())*int64(l.recordBytes()) {
		return fmt.Errorf("read %s: %d bytes at %d of %d, mirrored %v", l.dir, len(p), off, int64(l.Len())*int64(l.recordBytes()), flip)
	}
	for k, s := range l.shards {
		start := int64(l.starts[k]) * int64(l.recordBytes())
		from := s.moments
		if flip {
			from = s.flip
		}
		if off < start || off >= start+int64(len(from)) || len(p) == 0 {
			continue
		}
		err := guardFaults(func() error {
			n := copy(p, from[off-start:])
			p, off = p[n:], off+int64(n)
			return nil
		})
		if err != nil {
			return l.readError(k, err)
		}
	}
	return nil
}
