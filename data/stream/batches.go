package stream

import (
	"context"
	"fmt"
	"iter"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/philox"
)

// Options asks for shuffled batches. GlobalBatch is required; the rest may be zero.
type Options struct {
	Seed        uint64  // of the order (its low 32 bits) and of the choice of views
	GlobalBatch int     // samples in a batch
	StartStep   int     // the first step to yield, to continue a run
	MaxSteps    int     // the step before which to stop; 0 means no limit
	Epochs      int     // the epoch before which to stop; 0 means no limit
	FlipProb    float64 // probability of the mirrored view; DiT trains with 0.5
	Workers     int     // goroutines that prepare batches; 0 means up to 4
	// Order is ShuffleOrder (also "") or BlockOrder.
	Order string
	// Records asks for the numbers of records in the place of their moments, for a reader that has these.
	Records  bool
	Captions bool // whether batches have token states, of one of its captions for each sample
	Share
}

// The orders of the samples in an epoch. Both are pure functions of seed, epoch and number of samples.
const (
	ShuffleOrder = "shuffle" // see [Permutation]
	// BlockOrder is for sets that are larger than memory, on storage that is slow at single records: blocks of 1
	// MiB are read one after the other, ahead of use, and mixed within windows of 64 of them.
	BlockOrder = "block"
)

// Share says which part of each batch a process gets. The zero value gives it whole batches.
//
// A batch is cut into MicroBatches parts in order, and each of those into World parts, of which the process gets
// that of its Rank: whatever the numbers, the same samples are in the same batches. The sizes must divide the
// batch.
type Share struct {
	Rank, World  int // World 0 means 1
	MicroBatches int // 0 means 1
	// Offset moves the stream on by so many batches: step s gets what would be that of step s+Offset.
	Offset int
}

// pieces is the number of parts that a batch is cut into.
func (s Share) pieces() int { return max(s.World, 1) * max(s.MicroBatches, 1) }

func (s Share) check(batch int) error {
	switch {
	case s.World < 0 || s.MicroBatches < 0 || s.Offset < 0 || s.Rank < 0 || s.Rank >= max(s.World, 1):
		return fmt.Errorf("rank %d of %d, %d micro batches, offset %d: want ranks from 0 and none negative", s.Rank,
			s.World, s.MicroBatches, s.Offset)
	case batch%s.pieces() != 0:
		return fmt.Errorf("batch size %d is not divisible by %s times %s", batch,
			names.Plural(max(s.World, 1), "process"), names.Plural(max(s.MicroBatches, 1), "micro batch"))
	}
	return nil
}

// Position is where a batch, or a part of one, stands in a run.
type Position struct {
	Step  int // global step, from 0
	Epoch int // from 0
	// Batch is the place of the batch in the stream: Step + Share.Offset. Random numbers go by it.
	Batch int
	Micro int // which of the MicroBatches
	Slot  int // of the first sample, in the batch
}

// index is that of the random numbers of the i-th sample here.
func (p Position) index(batch, i int) uint64 { return uint64(p.Batch)*uint64(batch) + uint64(p.Slot+i) }

// Batch is the input of one training step. It belongs to the iterator and is overwritten when the loop asks for the
// next one: copy what is to be kept.
type Batch struct {
	Position
	IDs     []int   // sample ids
	Labels  []int64 // [N]
	Moments []byte  // [N, 2C, h, w] as they are stored (latents.Set.ReadRecord), unscaled: mean, then log variance
	// With Options.Records there are no Moments, but the numbers of the records, and whether their mirrored view
	// was drawn.
	Records  []int
	Mirrored []bool
	// With Options.Captions, the token states of a caption of each sample, as they are stored
	// (tokens.Set.ReadStored), its number of tokens, and its row in the text.
	Tokens       []byte // [N, L, W]
	TokenLengths []int  // [N], 1 to L
	CaptionRows  []int  // [N]
	// WaitSeconds is how long the loop waited for this batch: the share of data in the step time.
	WaitSeconds float64
}

// Batches yields training batches of l from step StartStep on. The order is a pure function of seed and epoch (see
// Permutation): batch b of an epoch is entries [b*B, (b+1)*B) of it, so a run continues with the same stream from
// any step. Slot i of batch b of the stream takes its view by the random number of tag flip, index b*B+i, and its
// caption, where it has several, by that of tag caption. Batches are prepared ahead in the background; the
// goroutines end with the loop. An error, that of a cancelled ctx included, ends the sequence.
func Batches(ctx context.Context, l *latents.Set, o Options) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		m, err := newBatchMaker(l, o)
		if err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		newWorker := func(context.Context) func(task, *Batch) error { return m.fill }
		for r, err := range prefetch(ctx, numWorkers(o.Workers), m.tasks(ctx), m.buffer, newWorker) {
			if err != nil {
				yield(nil, err)
				return
			}
			r.batch.WaitSeconds = r.wait.Seconds()
			if !yield(r.batch, nil) {
				cancel() // a window that is being read is not waited for
				return
			}
		}
	}
}

// batchMaker makes the batches of a set.
type batchMaker struct {
	l       *latents.Set
	o       Options
	size    int          // samples in a part of a batch
	text    *tokens.Set  // nil where no captions are asked for
	blocks  *blockReader // nil but for BlockOrder
	permute func(seed uint32, epoch, n int) []int
}

func newBatchMaker(l *latents.Set, o Options) (*batchMaker, error) {
	err := checkSteps(l.Len(), o.GlobalBatch, o.StartStep, o.MaxSteps, o.Epochs, o.FlipProb, o.Share)
	if err != nil {
		return nil, fmt.Errorf("latents %s: %w", l.Dir(), err)
	}
	if o.FlipProb > 0 && !l.Manifest().Flip {
		return nil, fmt.Errorf("latents %s: no mirrored latents in this set: encode with --flip both, or train "+
			"without flips", l.Dir())
	}
	m := &batchMaker{l: l, o: o, size: o.GlobalBatch / o.pieces(), permute: Permutation}
	switch o.Order {
	case "", ShuffleOrder:
	case BlockOrder:
		m.blocks = newBlockReader(l, o.GlobalBatch, o.FlipProb > 0)
		m.permute = m.blocks.permute
	default:
		return nil, fmt.Errorf("latents %s: order %q: want %s or %s", l.Dir(), o.Order, ShuffleOrder, BlockOrder)
	}
	m.text, err = textFor(l, &o)
	return m, err
}

// tasks are the parts of batches to make. Blocks of records are read ahead of them until ctx ends.
func (m *batchMaker) tasks(ctx context.Context) iter.Seq[task] {
	o := &m.o
	last := lastStep(o.MaxSteps, o.Epochs, m.l.Len()/o.GlobalBatch)
	tasks := epochTasks(m.l.Len(), o.GlobalBatch, o.Seed, o.StartStep, last, o.Share, m.permute)
	if m.blocks != nil && !o.Records {
		tasks = m.blocks.ahead(ctx, tasks)
	}
	return tasks
}

// buffer is a batch to fill.
func (m *batchMaker) buffer() *Batch {
	b := &Batch{IDs: make([]int, m.size), Labels: make([]int64, m.size)}
	if m.o.Records {
		b.Records, b.Mirrored = make([]int, m.size), make([]bool, m.size)
	} else {
		b.Moments = make([]byte, m.size*m.l.RecordBytes())
	}
	if m.text != nil {
		b.makeTokens(m.text, m.size)
	}
	return b
}

func (m *batchMaker) fill(t task, b *Batch) error {
	n, o := m.l.RecordBytes(), &m.o
	b.Position = t.at
	for slot, i := range t.items {
		b.IDs[slot], b.Labels[slot] = m.l.ID(i), m.l.Label(i)
		index := t.at.index(o.GlobalBatch, slot)
		flip := mirrored(o.Seed, o.FlipProb, index)
		if o.Records {
			b.Records[slot], b.Mirrored[slot] = i, flip
		} else if err := m.l.ReadRecord(i, flip, b.Moments[slot*n:(slot+1)*n]); err != nil {
			return err
		}
		if m.text != nil {
			if err := b.addCaption(m.text, slot, i, o.Seed, index); err != nil {
				return err
			}
		}
	}
	return nil
}

// mirrored decides the view of the sample with an index.
func mirrored(seed uint64, prob float64, index uint64) bool {
	return prob > 0 && philox.Uniform(seed, philox.TagFlip, 0, index) < prob
}

func checkSteps(n, batch, start, maxSteps, epochs int, prob float64, share Share) error {
	switch {
	case batch < 1:
		return fmt.Errorf("batch size %d: want at least 1", batch)
	case batch > n:
		return fmt.Errorf("batch size %d is larger than the data set of %s", batch, names.Plural(n, "sample"))
	case start < 0 || maxSteps < 0 || epochs < 0:
		return fmt.Errorf("start step %d, max steps %d, epochs %d: want none negative", start, maxSteps, epochs)
	case !(prob >= 0 && prob <= 1):
		return fmt.Errorf("flip probability %v: want 0 to 1", prob)
	}
	return share.check(batch)
}
