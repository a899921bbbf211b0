package training

import (
	"slices"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
)

// manyPictures is a source of n pictures of 8 x 8, which counts how often each is asked for.
type manyPictures struct {
	n    int
	seen []int
}

func (p *manyPictures) Len() int                  { return p.n }
func (p *manyPictures) Classes() []string         { return []string{"x"} }
func (p *manyPictures) Sample(int) catalog.Sample { return catalog.Sample{Name: "x"} }
func (p *manyPictures) Order() string             { return "test" }
func (p *manyPictures) Hash() string              { return "test" }
func (p *manyPictures) Notes() []string           { return nil }
func (p *manyPictures) Close() error              { return nil }
func (p *manyPictures) Image(i int) (*picture.Image, error) {
	p.seen[i]++
	img := picture.NewImage(8, 8)
	for k := range img.Pix {
		img.Pix[k] = uint8(i*31 + k*(i%5+1))
	}
	return img, nil
}

// TestMeasuredPictures: small sets are measured once, of large ones the pictures that training begins with, as ever.
func TestMeasuredPictures(t *testing.T) {
	o := stream.ImageOptions{Size: picture.Square(8), Batch: 24, Workers: 1, Seed: 3, FlipProb: 0.5}
	for _, n := range []int{1, 24, 64, maxMeasured} {
		src := &manyPictures{n, make([]int, n)}
		for _, err := range batchesToMeasure(t.Context(), src, o) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if slices.Max(src.seen) != 1 || slices.Min(src.seen) != 1 {
			t.Errorf("%d pictures: each is taken %d to %d times, want once", n, slices.Min(src.seen),
				slices.Max(src.seen))
		}
	}
	src := &manyPictures{maxMeasured + 1000, make([]int, maxMeasured+1000)}
	var got, want []int
	for b, err := range batchesToMeasure(t.Context(), src, o) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b.IDs...)
	}
	o.MaxSteps = 171 // of 24 make 4,096
	for b, err := range stream.Images(t.Context(), src, o) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, b.IDs...)
	}
	if !slices.Equal(got, want) || len(got) != 171*24 {
		t.Errorf("%d pictures of a large set, others than the first of the training", len(got))
	}
}
