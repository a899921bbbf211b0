package evaluation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

// pictures are those of a set, all of one size, to be read once from first to last.
type pictures interface {
	// next returns the bytes of the next n pictures [n, H, W, 3], or fewer at the end; none at the end.
	next(ctx context.Context, n int) (rgb []uint8, count int, err error)
	size() picture.Size // known after the first next
	close() error
}

// ErrMixed is the error of pictures of several sizes.
var ErrMixed = errors.New("pictures of several sizes")

// ErrNotCropped is the error of a .npz whose pictures have another size than [OpenOptions] want.
var ErrNotCropped = errors.New("a .npz is not cropped")

// atOnce is n, or less where so many pictures of this size take more than 256 MiB.
func atOnce(n int, size picture.Size) int { return max(1, min(n, 256<<20/(3*size.Pixels()))) }

// stored are pictures in an array.
type stored struct {
	file *numpy.NPZ
	r    *numpy.Reader
	path string
	left int
	side picture.Size
}

func newStored(f *numpy.NPZ, path string, r *numpy.Reader) (*stored, error) {
	n, h, w := r.Shape[0], r.Shape[1], r.Shape[2]
	if n < 1 || h < 1 || w < 1 || h > picture.MaxPixels/w {
		return nil, fmt.Errorf("array %s is [%d, %d, %d, 3]: no pictures", r.Name, n, h, w)
	}
	again, err := f.Open(r.Name)
	if err != nil {
		return nil, err
	}
	return &stored{f, again, path, int(n), picture.Size{Height: int(h), Width: int(w)}}, nil
}

func (s *stored) next(_ context.Context, n int) ([]uint8, int, error) {
	n = min(atOnce(n, s.side), s.left)
	rgb := make([]uint8, n*3*s.side.Pixels())
	if _, err := io.ReadFull(s.r, rgb); err != nil {
		return nil, 0, fmt.Errorf("%s: array %s: %w", s.path, s.r.Name, err)
	}
	s.left -= n
	return rgb, n, nil
}

func (s *stored) size() picture.Size { return s.side }
func (s *stored) close() error       { return errors.Join(s.r.Close(), s.file.Close()) }

// listed are pictures that are files.
type listed struct {
	src  catalog.Source
	path string
	crop *picture.Size
	side picture.Size
	at   int
}

func (l *listed) next(ctx context.Context, n int) ([]uint8, int, error) {
	if l.at == l.src.Len() {
		return nil, 0, nil
	}
	if l.at == 0 {
		if l.crop != nil {
			l.side = *l.crop
		} else {
			img, err := l.src.Image(0)
			if err != nil {
				return nil, 0, err
			}
			l.side = picture.Size{Height: img.H, Width: img.W}
		}
	}
	n = min(atOnce(n, l.side), l.src.Len()-l.at)
	each := 3 * l.side.Pixels()
	rgb := make([]uint8, n*each)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range n {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return l.read(l.at+i, rgb[i*each:(i+1)*each])
		})
	}
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	l.at += n
	return rgb, n, nil
}

// read writes picture i to dst.
func (l *listed) read(i int, dst []uint8) error {
	img, err := l.src.Image(i)
	if err != nil {
		return err
	}
	if l.crop != nil {
		if img, err = picture.CenterCrop(img, *l.crop); err != nil {
			return err
		}
	}
	if is := (picture.Size{Height: img.H, Width: img.W}); is != l.side {
		return fmt.Errorf("%s: %w: %s is %s, %s is %s", l.path, ErrMixed, l.src.Sample(0).Name, l.side,
			l.src.Sample(i).Name, is)
	}
	copy(dst, img.Pix)
	return nil
}

func (l *listed) size() picture.Size { return l.side }
func (l *listed) close() error       { return l.src.Close() }

// recipe returns the texts of the first picture's PNG file, nil where there are none.
func (l *listed) recipe() (map[string]string, error) {
	raw, id := catalog.Raw(l.src)
	if raw == nil {
		return nil, nil
	}
	b, err := raw.Bytes(id(0), nil)
	if err != nil {
		return nil, err
	}
	_, texts, err := sheet.ReadTexts(bytes.NewReader(b))
	if err != nil || len(texts) == 0 { // no PNG, or a damaged one, which whoever decodes it will say
		return nil, nil
	}
	out := map[string]string{}
	for _, t := range texts {
		out[t.Keyword] = t.Text
	}
	return out, nil
}

// A batch is of pictures of a set.
type batch struct {
	rgb   []uint8
	count int
}

// each calls found with batches of all pictures of the set, while the next ones are read. It fills in what is known of
// pictures once they are read.
func (s *Set) each(ctx context.Context, n int, found func(b batch, size picture.Size) error) error {
	g, ctx := errgroup.WithContext(ctx)
	batches := make(chan batch, 1)
	sum := sha256.New()
	g.Go(func() error {
		defer close(batches)
		for {
			rgb, count, err := s.pictures.next(ctx, n)
			if err != nil || count == 0 {
				return err
			}
			sum.Write(rgb)
			select {
			case batches <- batch{rgb, count}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	g.Go(func() error {
		for b := range batches {
			if err := found(b, s.pictures.size()); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	size := s.pictures.size()
	s.info.Size = fmt.Sprintf("%dx%d", size.Height, size.Width)
	s.info.PixelsSHA256 = hex.EncodeToString(sum.Sum(nil))
	return nil
}
