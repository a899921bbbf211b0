package data

import (
	"fmt"
	"math"
)

// CropClassic names the crop of this package in manifests: ADM's centre crop on Pillow's resampling with the
// horizontal pass first, as every Pillow up to 12.1 did and as the published DiT results were made.
const CropClassic = "adm-center-crop pillow-classic"

// CenterCrop returns the size x size centre crop of img as ADM's center_crop_arr makes it: halve with a box
// filter while the shorter side is at least twice the size, resize with a bicubic filter until the shorter side
// is the size (smaller pictures are enlarged), cut the middle. The result equals Pillow up to 12.1 in every bit.
// img is left unchanged. To crop many pictures use a Cropper.
func CenterCrop(img *Image, size int) (*Image, error) {
	c, err := NewCropper(size)
	if err != nil {
		return nil, err
	}
	out := NewImage(size, size)
	if err := c.Crop(out.Pix, img); err != nil {
		return nil, err
	}
	return out, nil
}

// Cropper makes centre crops of one size. It keeps the weight tables and scratch memory between pictures, so one
// Cropper serves one goroutine.
type Cropper struct {
	size    int
	tables  map[tableKey]*weights
	scratch [3][]uint8 // two for the results of halving, one between the passes
	acc     []int32
}

type tableKey struct {
	f                 filter
	in, out, from, to int
}

// maxTables bounds the memory of the cache (a table for 256 outputs takes about 12 KiB).
const maxTables = 512

// maxCropSize keeps the arithmetic far from overflow; DiT uses 256 and 512.
const maxCropSize = 1 << 14

// NewCropper returns a Cropper for crops of size x size pixels.
func NewCropper(size int) (*Cropper, error) {
	if size < 1 || size > maxCropSize {
		return nil, fmt.Errorf("crop size %d: want 1 to %d", size, maxCropSize)
	}
	return &Cropper{size: size, tables: make(map[tableKey]*weights)}, nil
}

// Crop writes the centre crop of img to dst, which holds size*size*3 samples.
func (c *Cropper) Crop(dst []uint8, img *Image) error {
	if img.W < 1 || img.H < 1 || len(img.Pix) != 3*img.W*img.H {
		return fmt.Errorf("crop: %d samples for a picture of %d x %d, want %d", len(img.Pix), img.W, img.H, 3*img.W*img.H)
	}
	if len(dst) != 3*c.size*c.size {
		return fmt.Errorf("crop: room for %d samples, want %d", len(dst), 3*c.size*c.size)
	}
	pix, w, h := img.Pix, img.W, img.H
	for n := 0; min(w, h) >= 2*c.size; n = 1 - n {
		w2, h2 := w/2, h/2
		c.scratch[n] = grow(c.scratch[n], 3*w2*h2)
		c.resize(c.scratch[n], pix, w, h, window{box, w2, h2, 0, 0, w2, h2})
		pix, w, h = c.scratch[n], w2, h2
	}
	scale := float64(c.size) / float64(min(w, h))
	w2 := int(math.RoundToEven(float64(w) * scale))
	h2 := int(math.RoundToEven(float64(h) * scale))
	x, y := (w2-c.size)/2, (h2-c.size)/2
	c.resize(dst, pix, w, h, window{bicubic, w2, h2, x, y, x + c.size, y + c.size})
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
	y0, y1 := o.y0, o.y1 // rows of src that the second pass reads
	var rows *weights
	if h != o.h {
		rows = c.table(o.f, h, o.h, o.y0, o.y1)
		y0, y1 = rows.span()
	}
	mid := dst
	if rows != nil {
		c.scratch[2] = grow(c.scratch[2], 3*nx*(y1-y0))
		mid = c.scratch[2]
	}
	if w != o.w {
		resampleRows(mid, src, w, y0, y1, c.table(o.f, w, o.w, o.x0, o.x1))
	} else {
		for y := y0; y < y1; y++ {
			copy(mid[3*nx*(y-y0):3*nx*(y-y0+1)], src[3*(y*w+o.x0):])
		}
	}
	if rows != nil {
		if len(c.acc) < 3*nx {
			c.acc = make([]int32, 3*nx)
		}
		resampleCols(dst[:3*nx*ny], mid, 3*nx, y0, rows, c.acc)
	}
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
