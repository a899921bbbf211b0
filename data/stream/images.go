package stream

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
)

// ImageOptions asks for batches of crops. Size and Batch are required; the rest may be zero.
type ImageOptions struct {
	Size    picture.Size // of the crops
	Batch   int          // pictures in a batch
	Workers int          // goroutines that decode; 0 means up to 4
	// Resampler of the crop; "" means PillowClassic.
	Resampler picture.Resampler

	// KeepGoing leaves bad pictures out of the batches of ImageRange and lists them in Bad.
	KeepGoing bool

	// For Images alone, as in Options.
	Seed      uint64
	FlipProb  float64
	StartStep int
	MaxSteps  int
	Epochs    int
	Share
}

// ImageBatch holds decoded crops. It belongs to the iterator and is overwritten when the loop asks for the next one:
// copy what is to be kept.
type ImageBatch struct {
	Position
	IDs         []int
	Labels      []int64       // [N]
	Pix         []uint8       // [N, H, W, 3]
	Clipped     int           // pictures with Image.Clipped
	Oriented    int           // pictures with Image.Oriented
	Bad         []catalog.Bad // with KeepGoing: the samples that are not among the above
	WaitSeconds float64       // how long the loop waited for this batch
}

// Images yields shuffled crops for training. Order, views and steps follow the rules of Batches; what a
// batch holds does not depend on the number of workers. A picture that cannot be read is an error that names it.
func Images(ctx context.Context, src catalog.Source, o ImageOptions) iter.Seq2[*ImageBatch, error] {
	return func(yield func(*ImageBatch, error) bool) {
		if err := checkSteps(src.Len(), o.Batch, o.StartStep, o.MaxSteps, o.Epochs, o.FlipProb, o.Share); err != nil {
			yield(nil, fmt.Errorf("pictures: %w", err))
			return
		}
		o.KeepGoing = false
		tasks := epochTasks(src.Len(), o.Batch, o.Seed, o.StartStep, lastStep(o.MaxSteps, o.Epochs, src.Len()/o.Batch),
			o.Share, Permutation)
		imageBatches(ctx, src, o, tasks)(yield)
	}
}

// ImageRange yields the crops of samples lo to hi-1 in catalogue order, for encoding; the last batch may be smaller.
// Nothing is mirrored.
func ImageRange(ctx context.Context, src catalog.Source, lo, hi int, o ImageOptions) iter.Seq2[*ImageBatch, error] {
	return func(yield func(*ImageBatch, error) bool) {
		if o.Batch < 1 || lo < 0 || hi > src.Len() || lo > hi {
			yield(nil, fmt.Errorf("pictures %d to %d in batches of %d: want a range within %d, batches of at least 1",
				lo, hi, o.Batch, src.Len()))
			return
		}
		o.FlipProb, o.Share = 0, Share{}
		o.Batch = max(1, min(o.Batch, hi-lo)) // room is made for whole batches
		tasks := func(yield func(task) bool) {
			for step, at := 0, lo; at < hi; step, at = step+1, at+o.Batch {
				items := make([]int, min(o.Batch, hi-at))
				for i := range items {
					items[i] = at + i
				}
				if !yield(task{Position{Step: step, Batch: step}, items}) {
					return
				}
			}
		}
		imageBatches(ctx, src, o, tasks)(yield)
	}
}

func imageBatches(ctx context.Context, src catalog.Source, o ImageOptions, tasks iter.Seq[task]) iter.Seq2[*ImageBatch,
	error] {
	return func(yield func(*ImageBatch, error) bool) {
		if _, err := picture.NewCropper(o.Size, o.Resampler); err != nil {
			yield(nil, err)
			return
		}
		size, samples := 3*o.Size.Pixels(), o.Batch/o.pieces()
		newBuffer := func() *ImageBatch {
			return &ImageBatch{IDs: make([]int, samples), Labels: make([]int64, samples),
				Pix: make([]uint8, samples*size)}
		}
		newWorker := func(ctx context.Context) func(task, *ImageBatch) error {
			crop, err := picture.NewCropper(o.Size, o.Resampler)
			pictures := newReader(src)
			return func(t task, b *ImageBatch) error {
				if err != nil {
					return err
				}
				n := len(t.items)
				b.Position = t.at
				b.IDs, b.Labels, b.Pix, b.Bad = b.IDs[:n], b.Labels[:n], b.Pix[:n*size], nil
				slot := 0
				pictures.clipped, pictures.oriented = 0, 0
				pictures.prepare(ctx, t.items)
				for k, i := range t.items {
					if err := ctx.Err(); err != nil { // decoding is slow enough to be felt when interrupted
						return err
					}
					pix := b.Pix[slot*size : (slot+1)*size]
					if err := pictures.crop(ctx, crop, k, i, pix); err != nil {
						var bad *catalog.BadPicture
						if o.KeepGoing && errors.As(err, &bad) {
							b.Bad = append(b.Bad, catalog.Bad{ID: i, Err: bad})
							continue
						}
						return err
					}
					if mirrored(o.Seed, o.FlipProb, t.at.index(o.Batch, slot)) {
						picture.Mirror(pix, o.Size)
					}
					b.IDs[slot], b.Labels[slot] = i, int64(src.Sample(i).Label)
					slot++
				}
				b.IDs, b.Labels, b.Pix, b.Clipped = b.IDs[:slot], b.Labels[:slot], b.Pix[:slot*size], pictures.clipped
				b.Oriented = pictures.oriented
				return nil
			}
		}
		for r, err := range prefetch(ctx, numWorkers(o.Workers), tasks, newBuffer, newWorker) {
			if err != nil {
				yield(nil, err)
				return
			}
			r.batch.WaitSeconds = r.wait.Seconds()
			if !yield(r.batch, nil) {
				return
			}
		}
	}
}

// reader gets the pictures of one batch after the other. It keeps buffers, so it serves one goroutine.
type reader struct {
	src   catalog.Source
	files catalog.RawSource // src, or that of which it is a part, if it is one
	id    func(i int) int   // of sample i in files
	buf   [][]byte          // of the files of a batch, in remote storage, or of one
	errs  []error
	img   picture.Image // overwritten by each picture

	clipped, oriented int // pictures of the batch with Image.Clipped and with Image.Oriented
}

// maxRequests bounds how many pictures of a batch one worker asks for at once.
const maxRequests = 32

func newReader(src catalog.Source) *reader {
	r := &reader{src: src, buf: make([][]byte, 1)}
	r.files, r.id = catalog.Raw(src)
	return r
}

// prepare asks for the files of a batch at once, where each takes long to come.
func (r *reader) prepare(ctx context.Context, items []int) {
	if r.files == nil || !r.files.Remote() {
		return
	}
	for len(r.buf) < len(items) {
		r.buf = append(r.buf, nil)
	}
	r.errs = make([]error, len(items))
	var g errgroup.Group
	g.SetLimit(maxRequests)
	for k, i := range items {
		g.Go(func() error {
			if r.errs[k] = ctx.Err(); r.errs[k] == nil {
				var b []byte
				if b, r.errs[k] = r.files.Bytes(r.id(i), r.buf[k]); b != nil {
					r.buf[k] = b
				}
			}
			return nil
		})
	}
	_ = g.Wait()
}

// image decodes sample i, the k-th of the batch, and counts what is remarkable about it. The next call overwrites it;
// done is to be called before.
func (r *reader) image(ctx context.Context, k, i int) (img *picture.Image, done func(), err error) {
	switch {
	case r.files == nil:
		img, err = r.src.Image(i)
		if err == nil {
			r.count(img)
		}
		return img, func() {}, err
	case !r.files.Remote():
		k = 0
		b, err := r.files.Bytes(r.id(i), r.buf[0])
		if err != nil {
			return nil, nil, err
		}
		r.buf[0] = b
	case r.errs[k] != nil:
		return nil, nil, r.errs[k]
	}
	taken, err := r.files.Decode(ctx, &r.img, r.id(i), r.buf[k])
	if err != nil {
		r.drop(k)
		return nil, nil, err
	}
	r.count(&r.img)
	return &r.img, func() { r.drop(k); taken() }, nil
}

// keptBuffer is how large a buffer may be that waits for the next picture. The few larger ones would stay, one a
// worker, with nothing to say so.
const keptBuffer = 64 << 20

// drop gives up large buffers.
func (r *reader) drop(k int) {
	if cap(r.img.Pix) > keptBuffer {
		r.img = picture.Image{}
	}
	if cap(r.buf[k]) > keptBuffer {
		r.buf[k] = nil
	}
}

// count takes up what is remarkable about a picture.
func (r *reader) count(img *picture.Image) {
	if img.Clipped {
		r.clipped++
	}
	if img.Oriented {
		r.oriented++
	}
}

// crop writes the crop of sample i, the k-th of the batch, to pix; an error or a panic names the sample.
func (r *reader) crop(ctx context.Context, crop *picture.Cropper, k, i int, pix []uint8) error {
	return recovered(func() error {
		img, done, err := r.image(ctx, k, i)
		if err != nil {
			return err
		}
		defer done()
		if err := crop.Crop(pix, img); err != nil {
			s := r.src.Sample(i)
			if class := r.src.Classes()[s.Label]; class != "" {
				s.Name += fmt.Sprintf(" of class %q", class)
			}
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		return nil
	})
}
