package data

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// readahead asks the system for the blocks of BlockOrder before they are used, a window at a time.
type readahead struct {
	l        *Latents
	perBlock int // records
	flip     bool

	mu    sync.Mutex
	epoch int
	order []int // of the epoch
	asked int   // windows of it
}

func newReadahead(l *Latents, flip bool) *readahead {
	return &readahead{l: l, perBlock: (blockBytes + l.recordBytes() - 1) / l.recordBytes(), flip: flip, epoch: -1}
}

// permute is the order of an epoch.
func (r *readahead) permute(seed uint32, epoch, n int) []int {
	order := blockOrder(seed, epoch, n, r.perBlock)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch, r.order, r.asked = epoch, order, 0
	return order
}

// at says that the place of an epoch's order is to be read. Its window and the next are asked for, those before not.
func (r *readahead) at(epoch, place int) {
	if r == nil {
		return
	}
	size := r.perBlock * windowBlocks
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch != r.epoch { // the tasks are an epoch ahead already
		return
	}
	for r.asked = max(r.asked, place/size); r.asked <= place/size+1 && r.asked*size < len(r.order); r.asked++ {
		seen := map[int]bool{}
		for _, i := range r.order[r.asked*size : min((r.asked+1)*size, len(r.order))] {
			if b := i / r.perBlock; !seen[b] {
				seen[b] = true
				r.l.willNeed(b*r.perBlock, min((b+1)*r.perBlock, r.l.Len()), r.flip)
			}
		}
	}
}

// recordBytes is the size of a stored record of one view.
func (l *Latents) recordBytes() int { return l.RecordLen() * l.m.DType.Size() }

// willNeed asks the system to read records lo to hi-1 soon. That it does not is no error.
func (l *Latents) willNeed(lo, hi int, flip bool) {
	size := l.recordBytes()
	for k, s := range l.shards {
		from, to := max(lo, l.starts[k]), min(hi, l.starts[k+1])
		if from >= to {
			continue
		}
		a, b := (from-l.starts[k])*size, (to-l.starts[k])*size
		advise(s.moments[a:b])
		if flip {
			advise(s.flip[a:b])
		}
	}
}

// advise is madvise with whole pages.
func advise(b []byte) {
	_ = unix.Madvise(wholePages(b), unix.MADV_WILLNEED)
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
			return fmt.Errorf("read %s: %s: %w", l.dir, l.m.Shards[k].File, err)
		}
	}
	return nil
}
