package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ditrun/ditrun/data/picture"
)

// A Survey describes the pictures of a source by their headers.
type Survey struct {
	Read     int            // how many pictures it is of, spread evenly over the source
	Formats  map[string]int // how many are of each, such as JPEG
	Oriented int            // that are not stored upright, as their EXIF data say
	Bad      []Bad          // whose headers cannot be read; a picture may be bad though its header is not
	// Sizes of all that can be read, by the shorter side, then by the longer.
	Sizes []picture.Size
}

// Counts returns how many samples of src each class has, by label.
func Counts(src Source) []int {
	counts := make([]int, len(src.Classes()))
	for i := range src.Len() {
		counts[src.Sample(i).Label]++
	}
	return counts
}

// Smaller counts the pictures that are enlarged for crops of a size.
func (s *Survey) Smaller(size picture.Size) (n int) {
	for _, z := range s.Sizes {
		if z.Height < size.Height || z.Width < size.Width {
			n++
		}
	}
	return n
}

// headBytes is where most headers end, with the EXIF data and the small picture that a camera puts before it.
const headBytes = 64 << 10

// TakeSurvey reads the headers of up to most pictures. onProgress, which may be nil, is told how many are done.
func TakeSurvey(ctx context.Context, src Source, most int, onProgress func(done, of int)) (*Survey, error) {
	s := &Survey{Read: min(src.Len(), most), Formats: map[string]int{}}
	for k := range s.Read {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		i := k * src.Len() / s.Read
		h, err := headerOf(src, i)
		var bad *BadPicture
		switch {
		case errors.As(err, &bad):
			s.Bad = append(s.Bad, Bad{i, bad})
		case err != nil:
			return nil, err
		default:
			s.Formats[h.Format()]++
			if h.Oriented() {
				s.Oriented++
			}
			s.Sizes = append(s.Sizes, picture.Size{Height: h.H, Width: h.W})
		}
		if onProgress != nil {
			onProgress(k+1, s.Read)
		}
	}
	slices.SortFunc(s.Sizes, func(a, b picture.Size) int {
		return cmp.Or(cmp.Compare(min(a.Height, a.Width), min(b.Height, b.Width)),
			cmp.Compare(max(a.Height, a.Width), max(b.Height, b.Width)))
	})
	return s, nil
}

// headerOf reads the header of a picture, and no more than that where its file begins with it.
func headerOf(src Source, i int) (picture.Header, error) {
	switch src := src.(type) {
	case *catalogue:
		return src.header(i)
	case *remainder:
		return headerOf(src.Source, src.id(i))
	}
	img, err := src.Image(i)
	if err != nil {
		return picture.Header{}, err
	}
	return picture.Header{W: img.W, H: img.H}, nil
}

func (c *catalogue) header(i int) (picture.Header, error) {
	e := c.entries[i]
	if length := min(e.length, headBytes); length < e.length && c.files[e.file].bad == nil {
		f, done, err := c.files[e.file].reader()
		if err != nil {
			return picture.Header{}, err
		}
		head := make([]byte, length)
		n, err := f.ReadAt(head, e.offset)
		done()
		if err != nil && !errors.Is(err, io.EOF) {
			return picture.Header{}, fmt.Errorf("load %s: %w", c.where(i), err)
		}
		if h, err := picture.ReadHeader(head[:n], c.orientation); err == nil {
			return h, nil
		} // the header is longer
	}
	b, err := c.Bytes(i, nil)
	if err != nil {
		return picture.Header{}, err
	}
	h, err := picture.ReadHeader(b, c.orientation)
	if err != nil {
		return h, &BadPicture{c.where(i), err}
	}
	return h, nil
}
