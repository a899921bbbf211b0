package latents

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/mmap"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A Writer writes a set of latents into a folder. Several processes given the same plan share the work, and one
// that was killed is continued by the next: a shard exists whole or not at all.
//
//	for c, err := range w.Claims(ctx, rank, world) {
//		for b, err := range ImageRange(ctx, src, c.Lo, c.Hi, o) {
//			moments, flip := encode(b)
//			err = c.Add(b.IDs, moments, flip, b.Labels)
//		}
//		err = c.Commit()
//	}
//	manifest, err := w.Finish(ctx)
type Writer struct {
	dir  string
	plan Plan
	// share is a lock on the plan's file, from before the first shard until the set is finished or the writer closed.
	share   *disk.Lock
	planned bool // this writer put the plan there
}

// NewWriter makes the folder dir if needed and checks that it holds nothing of another plan, and that nobody makes
// latents to another plan there. The caller closes the writer.
func NewWriter(dir string, plan Plan) (*Writer, error) {
	if plan.ShardSize == 0 {
		plan.ShardSize = DefaultShardSize
	}
	if plan.Orientation == picture.AsStored {
		plan.Orientation = ""
	}
	if err := plan.validate(); err != nil {
		return nil, fmt.Errorf("write latents to %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("write latents to %s: %w", dir, err)
	}
	w := &Writer{dir: dir, plan: plan}
	if err := w.agree(context.Background()); err != nil {
		return nil, err
	}
	return w, nil
}

// fits checks that the folder holds nothing of another plan, and says whether a shard is missing.
func (w *Writer) fits() (missing bool, err error) {
	m, err := readManifest(w.dir)
	if err == nil {
		if d := w.plan.differs(&m.Plan); d != "" {
			return false, fmt.Errorf("write latents to %s: it holds latents %s: choose another folder", w.dir, d)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("write latents to %s: %w", w.dir, disk.Advise(err, "choose another folder"))
	}
	files, err := w.names("latents-", ".safetensors")
	if err != nil {
		return false, err
	}
	for _, name := range files {
		if !strings.HasSuffix(name, fmt.Sprintf("-of-%05d.safetensors", w.plan.NumShards())) {
			return false, fmt.Errorf("write latents to %s: it holds %s, this plan has %s: choose another folder", w.dir,
				name, names.Plural(w.plan.NumShards(), "shard"))
		}
	}
	list, err := w.Missing()
	return len(list) > 0, err
}

// Plan returns the plan, its defaults filled in.
func (w *Writer) Plan() Plan { return w.plan }

// names lists the files of the folder by prefix and suffix.
func (w *Writer) names(prefix, suffix string) ([]string, error) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) && strings.HasSuffix(e.Name(), suffix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Missing returns the shards still to be made. One cut short counts as missing; one made to another plan is an error.
func (w *Writer) Missing() ([]int, error) {
	var missing []int
	for k := range w.plan.NumShards() {
		done, err := w.done(k)
		if err != nil {
			return nil, err
		}
		if !done {
			missing = append(missing, k)
		}
	}
	return missing, nil
}

func (w *Writer) done(k int) (bool, error) {
	path := filepath.Join(w.dir, w.plan.file(k))
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	c, err := checkpoint.NewFile(f, info.Size(), path)
	if err != nil {
		return false, nil // not a whole file
	}
	if _, err := w.plan.checkShard(c, k); disk.OfMachine(err) {
		return false, fmt.Errorf("write latents to %s: %w", w.dir, err)
	} else if err != nil {
		return false, fmt.Errorf("write latents to %s: shard %s was made to another plan: %w: choose another folder",
			w.dir, w.plan.file(k), err)
	}
	return true, nil
}

// pollEvery is how often a process looks whether the shards that others hold are done.
const pollEvery = 100 * time.Millisecond

// Claims yields the shards to make, each locked against other processes until its Commit or Abandon; those that are
// abandoned are left alone. When only shards that others hold are left it waits for them, and takes over those of a
// process that dies. Each process starts its walk at a different shard, so that processes seldom meet: rank of world
// evenly spaced ones, or, where world is below 2, one drawn by host and process id.
func (w *Writer) Claims(ctx context.Context, rank, world int) iter.Seq2[*Claim, error] {
	return func(yield func(*Claim, error) bool) {
		missing, err := w.Missing()
		if err != nil {
			yield(nil, err)
			return
		}
		if len(missing) > 0 {
			at := int(processNumber() % uint64(len(missing)))
			if world > 1 {
				at = len(missing) * (rank % world) / world
			}
			missing = slices.Concat(missing[at:], missing[:at])
		}
		for len(missing) > 0 {
			var held []int // by others, or by an earlier claim of ours
			for _, k := range missing {
				if err := ctx.Err(); err != nil {
					yield(nil, err)
					return
				}
				c, err := w.claim(k)
				if err != nil {
					yield(nil, err)
					return
				}
				if c == nil {
					held = append(held, k)
					continue
				}
				done, err := w.done(k) // by somebody who held it a moment ago
				switch {
				case err != nil:
					c.Abandon()
					yield(nil, err)
					return
				case done:
					c.Abandon()
				case !yield(c, nil):
					return
				}
			}
			missing = held
			if len(missing) > 0 {
				select {
				case <-ctx.Done():
				case <-time.After(pollEvery):
				}
			}
		}
	}
}

// HasLocks says whether the file system of the folder has locks, without which processes cannot share the work:
// each does all of it. What they write is whole and the same in any case.
func (w *Writer) HasLocks() (bool, error) {
	lock, err := disk.TryLock(filepath.Join(w.dir, ManifestName+".lock"))
	if errors.Is(err, disk.ErrLocked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Remove()
	return lock.Held(), nil
}

func processNumber() uint64 {
	host, _ := os.Hostname()
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", host, os.Getpid())
	return h.Sum64()
}

// Finish reads all shards for their checksums and statistics and writes the manifest. If the folder has one of this
// plan already, that is returned: it was removed with the first shard made after it. All shards must be there. Where
// every picture was skipped there is no set: the shards are removed, and the error is a BadPicturesError.
func (w *Writer) Finish(ctx context.Context) (*Manifest, error) {
	lock, err := disk.WaitLock(ctx, filepath.Join(w.dir, ManifestName+".lock"))
	if err != nil {
		return nil, err
	}
	defer lock.Remove()
	missing, err := w.Missing()
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("finish %s: it lacks %d of %s, the first is %s", w.dir, len(missing),
			names.Plural(w.plan.NumShards(), "shard"), w.plan.file(missing[0]))
	}
	if err := w.removeLocks(); err != nil {
		return nil, err
	}
	if m, err := readManifest(w.dir); err == nil && w.plan.differs(&m.Plan) == "" {
		return m, w.finishPlan(ctx)
	}
	disk.Sweep(filepath.Join(w.dir, ManifestName))
	m := &Manifest{Format: latentsFormat, Version: latentsVersion, Plan: w.plan, Skipped: []Skipped{}}
	m.Shards = make([]ShardInfo, w.plan.NumShards())
	skipped, stats := make([][]Skipped, len(m.Shards)), make([]*momentStats, len(m.Shards))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for k := range m.Shards {
		g.Go(func() (err error) {
			if err := gctx.Err(); err != nil {
				return err
			}
			stats[k] = newMomentStats(w.plan.Channels)
			if m.Shards[k], skipped[k], err = w.summarise(k, stats[k]); err != nil {
				return fmt.Errorf("finish %s: %s: %w", w.dir, w.plan.file(k), err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := newMomentStats(w.plan.Channels)
	if slices.IndexFunc(m.Shards, func(s ShardInfo) bool { return s.Samples > 0 }) < 0 {
		return nil, w.undo(ctx, slices.Concat(skipped...))
	}
	for k, s := range stats { // in this order, whichever was done first: sums of floats depend on it
		all.merge(s)
		m.Skipped = append(m.Skipped, skipped[k]...)
	}
	m.Mean, m.Std = all.result()
	b, err := disk.MarshalSealed(m)
	if err != nil {
		return nil, err
	}
	if err := disk.WriteBytes(filepath.Join(w.dir, ManifestName), b); err != nil {
		return nil, err
	}
	return m, w.finishPlan(ctx)
}

// undo removes the shards of a set of which every picture was skipped: there is nothing to describe. It returns the
// error that says so.
func (w *Writer) undo(ctx context.Context, skipped []Skipped) error {
	bad := &catalog.BadPicturesError{Of: w.plan.Dataset.Samples}
	for _, s := range skipped {
		// The reason is the text of a BadPicture; wherever it is cut, the parts make the same text again.
		path, why, _ := strings.Cut(strings.TrimPrefix(s.Reason, "load "), ": ")
		bad.Bad = append(bad.Bad, catalog.Bad{ID: s.ID, Err: &catalog.BadPicture{Path: path, Err: errors.New(why)}})
	}
	for k := range w.plan.NumShards() {
		if err := os.Remove(filepath.Join(w.dir, w.plan.file(k))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := w.finishPlan(ctx); err != nil {
		return err
	}
	return bad
}

// removeLocks removes the lock files that killed processes left of finished shards.
func (w *Writer) removeLocks() error {
	names, err := w.names("latents-", ".safetensors.lock")
	if err != nil {
		return err
	}
	for _, n := range names {
		lock, err := disk.TryLock(filepath.Join(w.dir, n))
		if err == nil {
			lock.Remove()
		} else if !errors.Is(err, disk.ErrLocked) {
			return err
		}
	}
	return nil
}

// summarise reads one shard for the manifest and adds its moments to stats. What it reads must have the checksums that
// were taken before it was written.
func (w *Writer) summarise(k int, stats *momentStats) (ShardInfo, []Skipped, error) {
	lo, hi := w.plan.Range(k)
	s, err := openShard(filepath.Join(w.dir, w.plan.file(k)), &w.plan, k)
	if err != nil {
		return ShardInfo{}, nil, err
	}
	defer s.close()
	info := ShardInfo{File: w.plan.file(k), Samples: s.n, First: lo, End: hi, Bytes: int64(len(s.data)),
		CRC32C: map[string]string{}}
	err = mmap.Guard(func() error {
		info.SHA256 = s.sha256()
		for _, t := range s.tensors {
			sum := s.crc32c(t)
			if want, ok := s.crc[t.Name]; ok && sum != want {
				return fmt.Errorf("tensor %q: crc32c %s, %s when it was written: damaged: delete the file and "+
					"encode again", t.Name, sum, want)
			}
			info.CRC32C[t.Name] = sum
		}
		record := make([]float32, w.plan.recordLen())
		for i := range s.n {
			s.read(i, false, record)
			stats.add(record)
			if w.plan.Flip {
				s.read(i, true, record)
				stats.add(record)
			}
		}
		return nil
	})
	return info, s.skipped, err
}
