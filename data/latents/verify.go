package latents

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
	"sort"
	"sync"
	"syscall"
	"time"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/mmap"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// shardWayOut is what to do about a damaged shard.
const shardWayOut = "delete the file and encode again"

// Verify reads the set and compares it with the manifest: mode "crc" checks each tensor, "sha256" each file, "none"
// nothing. The error names every damaged file.
func (l *Set) Verify(ctx context.Context, mode string) error {
	if mode == "none" {
		return nil
	}
	if mode != "crc" && mode != "sha256" {
		return fmt.Errorf("verify %s: mode %q: want crc, sha256 or none", l.dir, mode)
	}
	var damaged []error
	for k, s := range l.shards {
		if err := ctx.Err(); err != nil {
			return err
		}
		if mode == "sha256" {
			err := mmap.Guard(func() error {
				if sum := s.sha256(); sum != l.m.Shards[k].SHA256 {
					return fmt.Errorf("sha256 %s, the manifest says %s", sum, l.m.Shards[k].SHA256)
				}
				return nil
			})
			if err != nil {
				damaged = append(damaged, l.damaged(k, err))
			}
		} else if err := l.verifyShard(ctx, k, nil); err != nil {
			damaged = append(damaged, err)
		}
		if n := len(damaged); n > 0 && disk.OfMachine(damaged[n-1]) {
			return damaged[n-1] // that all files are damaged would be wrong
		}
	}
	return errors.Join(damaged...)
}

func (l *Set) damaged(k int, err error) error {
	if disk.OfMachine(err) {
		return fmt.Errorf("verify %s: %s: %w", l.dir, l.m.Shards[k].File, err)
	}
	return fmt.Errorf("verify %s: %s: damaged: %w: %s", l.dir, l.m.Shards[k].File, err, shardWayOut)
}

// verifyShard compares the tensors of one shard with the manifest, with a pause after each piece.
func (l *Set) verifyShard(ctx context.Context, k int, pause func()) error {
	s, info := l.shards[k], &l.m.Shards[k]
	err := mmap.Guard(func() error {
		for _, t := range s.tensors {
			if err := s.compare(ctx, info, t, pause); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		return l.damaged(k, err)
	}
	return err
}

// compare holds one tensor against the checksum that the manifest has of it, a piece at a time.
func (s *shard) compare(ctx context.Context, info *ShardInfo, t checkpoint.Info, pause func()) error {
	want, ok := info.CRC32C[t.Name]
	if !ok {
		return fmt.Errorf("tensor %q: the manifest has no crc32c of it", t.Name)
	}
	const piece = 1 << 20
	sum := uint32(0)
	for b := range slices.Chunk(s.bytes(t), piece) {
		if err := ctx.Err(); err != nil {
			return err
		}
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b)
		if pause != nil {
			pause()
		}
	}
	if have := fmt.Sprintf("%08x", sum); have != want {
		return fmt.Errorf("tensor %q: crc32c %s, the manifest says %q", t.Name, have, want)
	}
	return nil
}

// VerifySamples compares the shards that hold the samples of the given ids with the manifest: for one who wonders about
// these samples.
func (l *Set) VerifySamples(ctx context.Context, ids []int) error {
	var shards []int
	for _, id := range ids {
		i := sort.Search(len(l.ids), func(i int) bool { return l.ids[i] >= int64(id) })
		if i < len(l.ids) && l.ids[i] == int64(id) {
			shards = append(shards, sort.SearchInts(l.starts, i+1)-1)
		}
	}
	slices.Sort(shards)
	for _, k := range slices.Compact(shards) {
		if err := l.verifyShard(ctx, k, nil); err != nil {
			return err
		}
	}
	return nil
}

// A Comparison holds a set against its checksums while others read it. All methods may be called from several
// goroutines.
type Comparison struct {
	ctx    context.Context
	cancel context.CancelFunc
	hurry  chan struct{}
	once   sync.Once
	done   chan struct{} // closed when err is set
	err    error
}

// Compare begins to hold the set against its manifest: the tensors of every world-th shard from rank on, and as many
// of the files of its [Part] where it is open. It works on a thread of low priority and rests as long as it
// worked, until somebody waits. Closing the set stops it.
func (l *Set) Compare(rank, world int) *Comparison {
	c := &Comparison{hurry: make(chan struct{}), done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	l.comparing.Lock()
	l.comparisons = append(l.comparisons, c)
	l.comparing.Unlock()
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and its priority with it
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), 19)
		c.err = l.compareShare(c, rank, max(world, 1))
		close(c.done)
	}()
	return c
}

func (l *Set) compareShare(c *Comparison, rank, world int) error {
	began := time.Now()
	pause := func() {
		select {
		case <-c.hurry:
		case <-c.ctx.Done():
		case <-time.After(time.Since(began)):
		}
		began = time.Now()
	}
	for k := rank; k < len(l.shards); k += world {
		if err := l.verifyShard(c.ctx, k, pause); err != nil {
			return err
		}
	}
	if l.part == nil {
		return nil
	}
	for k := rank; k < l.part.NumFiles() && c.ctx.Err() == nil; k += world {
		if err := l.part.VerifyFile(k); err != nil {
			return err
		}
		pause()
	}
	return c.ctx.Err()
}

// Result says what was found; done is false while nothing is wrong and something is left to compare.
func (c *Comparison) Result() (done bool, err error) {
	select {
	case <-c.done:
		return true, c.err
	default:
		return false, nil
	}
}

// Wait waits for the end, which now comes as fast as it can, or for that of ctx, and returns the first damage that was
// found.
func (c *Comparison) Wait(ctx context.Context) error {
	c.once.Do(func() { close(c.hurry) })
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	if done, err := c.Result(); done {
		return err
	}
	return context.Cause(ctx)
}

// Stop ends the comparison.
func (c *Comparison) Stop() {
	c.cancel()
	<-c.done
}
