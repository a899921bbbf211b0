package picture

import (
	"fmt"
	"image"
	"math"
	"slices"

	"github.com/disintegration/imaging"
)

// A Resampler says with which program's pixels ADM's centre crop is made.
type Resampler string

const (
	// PillowClassic has the horizontal pass first, as every Pillow up to 12.1 did and as the published DiT results
	// were made. It is the default.
	PillowClassic Resampler = "pillow-classic"
	// Pillow13 takes the vertical pass first where that is less work, as Pillow does from 13.0 on. It differs for
	// pictures taller than about 2:1, by up to 5 levels.
	Pillow13 Resampler = "pillow13"
	// Imaging is the resampling of github.com/disintegration/imaging, which is near Pillow's and equal to none.
	Imaging Resampler = "imaging"
)

// Crop names the crop in manifests.
func (r Resampler) Crop() string { return "adm-center-crop " + string(r) }

// CenterCrop returns the centre crop of img, for squares as ADM's center_crop_arr makes it: halve with a box
// filter while the shorter side is at least twice the size, resize with a bicubic filter until the shorter side
// is the size (smaller pictures are enlarged), cut the middle. The result equals Pillow up to 12.1 in every bit.
// img is left unchanged. To crop many pictures use a Cropper.
func CenterCrop(img *Image, size Size) (*Image, error) {
	c, err := NewCropper(size, PillowClassic)
	if err != nil {
		return nil, err
	}
	out := NewImage(size.Width, size.Height)
	if err := c.Crop(out.Pix, img); err != nil {
		return nil, err
	}
	return out, nil
}

// Cropper makes centre crops of one size. It keeps the weight tables and scratch memory between pictures, so one
// Cropper serves one goroutine.
//
// Crops that are not square follow the same three steps, where a picture has to cover the crop in both directions:
// halve while both sides are at least twice those of the crop, resize until one side is that of the crop and the
// other no less, cut the middle.
type Cropper struct {
	size    Size
	by      Resampler
	tables  map[tableKey]*weights
	scratch [4][]uint8 // two for the results of halving, one between the passes, one for a row
	acc     []int32
	simd    bool
}

type tableKey struct {
	f                 filter
	in, out, from, to int
}

// maxTables bounds the memory of the cache (a table for 256 outputs takes about 12 KiB).
const maxTables = 512

// NewCropper returns a Cropper; by "" is PillowClassic.
func NewCropper(size Size, by Resampler) (*Cropper, error) {
	switch by {
	case "":
		by = PillowClassic
	case PillowClassic, Pillow13, Imaging:
	default:
		return nil, fmt.Errorf("resampler %q: want %s, %s or %s", by, PillowClassic, Pillow13, Imaging)
	}
	if err := size.Validate(); err != nil {
		return nil, err
	}
	return &Cropper{size: size, by: by, tables: make(map[tableKey]*weights), simd: haveSIMD()}, nil
}

// Crop writes the centre crop of img to dst, which holds three samples for each of its pixels.
func (c *Cropper) Crop(dst []uint8, img *Image) error {
	if img.W < 1 || img.H < 1 || len(img.Pix) != 3*img.W*img.H {
		return fmt.Errorf("crop: %d samples for a picture of %d x %d, want %d", len(img.Pix), img.W, img.H,
			3*img.W*img.H)
	}
	if len(dst) != 3*c.size.Pixels() {
		return fmt.Errorf("crop: room for %d samples, want %d", len(dst), 3*c.size.Pixels())
	}
	height, width := c.size.Height, c.size.Width
	pix, w, h := img.Pix, img.W, img.H
	for n := 0; w >= 2*width && h >= 2*height; n = 1 - n {
		w2, h2 := w/2, h/2
		c.scratch[n] = grow(c.scratch[n], 3*w2*h2)
		c.resize(c.scratch[n], pix, w, h, window{box, w2, h2, 0, 0, w2, h2})
		pix, w, h = c.scratch[n], w2, h2
	}
	scale := max(float64(width)/float64(w), float64(height)/float64(h))
	w2 := int(math.RoundToEven(float64(w) * scale))
	h2 := int(math.RoundToEven(float64(h) * scale))
	x, y := (w2-width)/2, (h2-height)/2
	c.resize(dst, pix, w, h, window{bicubic, w2, h2, x, y, x + width, y + height})
	return nil
}

// window asks for a resize to w x h of which only [x0, x1) x [y0, y1) is computed.
type window struct {
	f              filter
	w, h           int
	x0, y0, x1, y1 int
}

// resize writes the window to dst. Computing only the window is exact, since every output depends on its own
// taps alone. An axis that keeps its length is not filtered, as in Pillow.
func (c *Cropper) resize(dst, src []uint8, w, h int, o window) {
	nx, ny := o.x1-o.x0, o.y1-o.y0
	switch {
	case c.by == Imaging:
		c.imaging(dst, src, w, h, o)
	case h == o.h:
		c.alongX(dst, src, w, o.y0, o.y1, o)
	case c.by == Pillow13 && h > o.h && h-o.h > 2*(w-o.w):
		c.scratch[2] = grow(c.scratch[2], 3*w*ny)
		mid := c.scratch[2]
		c.cols(mid, src, 3*w, 0, c.table(o.f, h, o.h, o.y0, o.y1))
		c.alongX(dst, mid, w, 0, ny, o)
	default:
		rows := c.table(o.f, h, o.h, o.y0, o.y1)
		y0, y1 := rows.span() // of src, that the second pass reads
		c.scratch[2] = grow(c.scratch[2], 3*nx*(y1-y0))
		c.alongX(c.scratch[2], src, w, y0, y1, o)
		c.cols(dst[:3*nx*ny], c.scratch[2], 3*nx, y0, rows)
	}
}

// alongX filters rows [y0, y1) of src, or cuts them where the width stays.
func (c *Cropper) alongX(dst, src []uint8, w, y0, y1 int, o window) {
	if w != o.w {
		c.rows(dst, src, w, y0, y1, c.table(o.f, w, o.w, o.x0, o.x1))
		return
	}
	n := 3 * (o.x1 - o.x0)
	for y := y0; y < y1; y++ {
		copy(dst[n*(y-y0):n*(y-y0+1)], src[3*(y*w+o.x0):])
	}
}

// imaging is resize by another library.
func (c *Cropper) imaging(dst, src []uint8, w, h int, o window) {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		copy(m.Pix[4*i:], src[3*i:3*i+3])
		m.Pix[4*i+3] = 255
	}
	f := imaging.Box
	if o.f == bicubic {
		f = imaging.CatmullRom
	}
	m = imaging.Crop(imaging.Resize(m, o.w, o.h, f), image.Rect(o.x0, o.y0, o.x1, o.y1))
	for i := range len(dst) / 3 {
		copy(dst[3*i:3*i+3], m.Pix[4*i:])
	}
}

// rows and cols filter along x and y, in the fast form where there is one; both forms give the same bits.
func (c *Cropper) rows(dst, src []uint8, w, y0, y1 int, t *weights) {
	reach := 6*t.pairs + 16 // what the fast form reads, from the first tap of an output on
	if !c.simd || 3*w < reach {
		resampleRows(dst, src, w, y0, y1, t)
		return
	}
	c.scratch[3] = grow(c.scratch[3], 3*w+reach)
	resampleRowsSIMD(dst, src, w, y0, y1, t, c.scratch[3])
}

func (c *Cropper) cols(dst, src []uint8, n, y0 int, t *weights) {
	if !c.simd || n < 32 {
		c.acc = slices.Grow(c.acc[:0], n)[:n]
		resampleCols(dst, src, n, y0, t, c.acc)
		return
	}
	resampleColsSIMD(dst, src, n, y0, t)
}

func (c *Cropper) table(f filter, in, out, from, to int) *weights {
	key := tableKey{f, in, out, from, to}
	t := c.tables[key]
	if t == nil {
		if len(c.tables) >= maxTables {
			clear(c.tables)
		}
		t = newWeights(f, in, out, from, to)
		c.tables[key] = t
	}
	return t
}

func grow(b []uint8, n int) []uint8 {
	if cap(b) < n {
		return make([]uint8, n)
	}
	return b[:n]
}
