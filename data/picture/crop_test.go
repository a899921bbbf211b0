package picture

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// patterned is the pattern the golden crops were made from.
func patterned(w, h int) *Image {
	img := NewImage(w, h)
	for y := range h {
		for x := range w {
			for c := range 3 {
				img.Pix[3*(y*w+x)+c] = uint8((7*x + 13*y + 29*c + x*y/17) * 31)
			}
		}
	}
	return img
}

// Crops of 256 made with ADM's center_crop_arr on Pillow 9.0.1 (12.3 and 13.0 agree on all but the last two
// rows): the first 16 hex digits of the SHA-256 of the samples, and three pixels.
var cropGoldens = []struct {
	w, h   int
	sum    string
	pixels string // at (0,0), (128,128), (255,255)
}{
	{500, 375, "90a473516cca35a7", "145,36,151 / 100,148,106 / 137,136,143"},
	{375, 500, "ca6794d10988e773", "115,91,120 / 107,93,114 / 210,78,216"},
	{333, 500, "a82b788eb1e8f302", "146,97,112 / 127,156,137 / 16,155,22"},
	{256, 256, "dba07eb3bb119b35", "0,131,6 / 157,32,163 / 195,70,201"},
	{257, 300, "1edfda72bf1f6ab6", "19,137,25 / 138,141,153 / 41,167,47"},
	{255, 400, "6cd4bc2c345198a2", "189,161,195 / 128,132,134 / 87,140,93"},
	{100, 80, "5e747e0e6e20c9e7", "149,190,155 / 129,41,135 / 168,123,174"},
	{512, 512, "bab85b9220cbc7ee", "119,122,125 / 152,155,158 / 125,128,131"},
	{513, 1024, "1514a933987c18c6", "95,98,101 / 141,80,83 / 113,180,119"},
	{1023, 767, "8d2f6effb0ac467b", "121,125,127 / 124,125,106 / 138,124,144"},
	{1600, 1200, "345a1333292dd03a", "136,119,117 / 135,131,133 / 139,127,147"},
	{2047, 1365, "455fcbecd02c9c2a", "110,136,121 / 128,132,118 / 125,131,124"},
	{300, 700, "f6de8f9b78e483f8", "118,165,124 / 55,193,63 / 213,77,222"},
	{640, 1500, "0bd8731a81c8d84c", "152,102,161 / 109,152,115 / 119,122,125"},
}

func TestCenterCropGolden(t *testing.T) {
	// one cropper for all: its cache and scratch must not leak between pictures
	shared, err := NewCropper(Square(256), PillowClassic)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range cropGoldens {
		src := patterned(g.w, g.h)
		img, err := CenterCrop(src, Square(256))
		if err != nil {
			t.Fatal(err)
		}
		checkCrop(t, img, g.w, g.h, g.sum, g.pixels)
		again := make([]uint8, len(img.Pix))
		if err := shared.Crop(again, src); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(again, img.Pix) {
			t.Errorf("%dx%d: a used cropper gives another crop", g.w, g.h)
		}
		if !slices.Equal(src.Pix, patterned(g.w, g.h).Pix) {
			t.Errorf("%dx%d: the source picture was changed", g.w, g.h)
		}
	}
}

// Crops that are not square, by center_crop of bench/data/adm.py on Pillow 12.1.1; three pixels as above.
func TestRectangularCropGolden(t *testing.T) {
	for _, g := range []struct {
		w, h   int
		size   Size
		sum    string
		pixels string
	}{
		{500, 375, Size{256, 384}, "4bc0afbad66f0441", "32,147,48 / 119,113,125 / 117,206,123"},
		{375, 500, Size{256, 384}, "0da4172a8a72c060", "199,73,205 / 85,77,92 / 34,169,40"},
		{1600, 1200, Size{256, 384}, "096fba6ef847bc5b", "125,128,132 / 129,118,135 / 140,128,129"},
		{2047, 1365, Size{384, 256}, "f1eacfd118ffc39d", "118,152,111 / 129,125,117 / 128,132,120"},
		{640, 1500, Size{128, 512}, "1578fb3632e742bf", "141,116,147 / 100,191,106 / 196,139,202"},
		{100, 80, Size{96, 160}, "d8fa69c2c3b6934d", "178,77,184 / 130,21,136 / 11,178,17"},
		{513, 1024, Size{512, 256}, "0380c1b508f5cdfd", "119,122,125 / 141,80,83 / 43,174,49"},
		{384, 256, Size{256, 384}, "7102c0d950b66645", "0,131,6 / 59,190,65 / 195,70,201"},
		{256, 256, Size{256, 384}, "9fbd925126c4fc68", "102,105,108 / 163,41,169 / 166,197,170"},
		{1023, 767, Size{512, 768}, "7e9a32b72e9a6793", "127,100,143 / 159,135,165 / 199,52,206"},
	} {
		img, err := CenterCrop(patterned(g.w, g.h), g.size)
		if err != nil {
			t.Fatal(err)
		}
		checkCrop(t, img, g.w, g.h, g.sum, g.pixels)
	}
}

// checkCrop compares the crop of the test picture of w x h with a golden: first, middle and last pixel.
func checkCrop(t *testing.T, img *Image, w, h int, sum, pixels string) {
	t.Helper()
	px := func(x, y int) string {
		p := img.Pix[3*(y*img.W+x):]
		return fmt.Sprintf("%d,%d,%d", p[0], p[1], p[2])
	}
	hash := sha256.Sum256(img.Pix)
	if got := hex.EncodeToString(hash[:8]); got != sum {
		t.Errorf("%dx%d to %dx%d: sha256 %s, want %s", w, h, img.W, img.H, got, sum)
	}
	if got := px(0, 0) + " / " + px(img.W/2, img.H/2) + " / " + px(img.W-1, img.H-1); got != pixels {
		t.Errorf("%dx%d to %dx%d: pixels %s, want %s", w, h, img.W, img.H, got, pixels)
	}
}

// A size is a number or text in files, and nothing else is one.
func TestSizeText(t *testing.T) {
	for text, want := range map[string]Size{`256`: Square(256), `"256x384"`: {256, 384}, `"96"`: Square(96)} {
		var s Size
		if err := json.Unmarshal([]byte(text), &s); err != nil || s != want {
			t.Errorf("%s: %v, %v", text, s, err)
		}
	}
	for _, s := range []Size{Square(256), {256, 384}} {
		text, err := json.Marshal(s)
		var back Size
		if err != nil || json.Unmarshal(text, &back) != nil || back != s {
			t.Errorf("%v as JSON is %s", s, text)
		}
	}
	for _, text := range []string{`"x"`, `"256x"`, `"0x4"`, `"-1"`, `"4x4x4"`, `{}`, `[4,4]`, `4.5`, `true`} {
		var s Size
		if err := json.Unmarshal([]byte(text), &s); err == nil {
			t.Errorf("%s: read as %v", text, s)
		}
	}
}

// Pillow 13.0.0's crops of the two pictures for which its order of passes matters.
func TestPillow13Golden(t *testing.T) {
	c, err := NewCropper(Square(256), Pillow13)
	if err != nil {
		t.Fatal(err)
	}
	goldens := []struct {
		w, h int
		sum  string
	}{{300, 700, "8d8ec1373abac986"}, {640, 1500, "1c1167366933b524"}}
	for _, g := range cropGoldens[:len(cropGoldens)-2] {
		goldens = append(goldens, struct {
			w, h int
			sum  string
		}{g.w, g.h, g.sum})
	}
	for _, g := range goldens {
		pix := make([]uint8, 3*256*256)
		if err := c.Crop(pix, patterned(g.w, g.h)); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(pix)
		if got := hex.EncodeToString(sum[:8]); got != g.sum {
			t.Errorf("%dx%d: sha256 %s, want %s", g.w, g.h, got, g.sum)
		}
	}
}

// The other library is near, on pictures without hard edges.
func TestImagingIsNear(t *testing.T) {
	src := NewImage(500, 375)
	for i := range src.Pix {
		src.Pix[i] = uint8(i / 3 % 500 / 2)
	}
	want, err := CenterCrop(src, Square(256))
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCropper(Square(256), Imaging)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]uint8, len(want.Pix))
	if err := c.Crop(got, src); err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if d := int(got[i]) - int(want.Pix[i]); d > 1 || d < -1 {
			t.Fatalf("sample %d is %d, Pillow's %d", i, got[i], want.Pix[i])
		}
	}
}

// The fast form and the portable one, over sizes that reach every edge case of either.
func TestCropPortable(t *testing.T) {
	if !haveSIMD() {
		t.Skip("no fast form on this processor")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		w, h, size := 1+rng.IntN(700), 1+rng.IntN(700), Size{1 + rng.IntN(140), 1 + rng.IntN(140)}
		if rng.IntN(4) == 0 {
			w = 1 + rng.IntN(6)
		}
		src := NewImage(w, h)
		for i := range src.Pix {
			src.Pix[i] = uint8(rng.Uint32()) | -uint8(rng.Uint32()&1) // often white: sums that overshoot
		}
		for _, by := range []Resampler{PillowClassic, Pillow13} {
			fast, err := NewCropper(size, by)
			if err != nil {
				t.Fatal(err)
			}
			slow := &Cropper{size: size, by: by, tables: map[tableKey]*weights{}}
			a, b := make([]uint8, 3*size.Pixels()), make([]uint8, 3*size.Pixels())
			if err := errors.Join(fast.Crop(a, src), slow.Crop(b, src)); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(a, b) {
				t.Fatalf("%dx%d to %s, %s: the two forms differ", w, h, size, by)
			}
		}
	}
}

func TestWeightsGolden(t *testing.T) {
	for _, g := range []struct {
		f          filter
		in, out, i int
		lo         int
		k          []int32
	}{
		{bicubic, 375, 256, 0, 0, []int32{2821397, 1583772, -194572, -16293}},
		{bicubic, 375, 256, 100, 144, []int32{-25894, -169146, 1655702, 2631843, 257884, -156085}},
		{bicubic, 375, 256, 255, 371, []int32{-16293, -194572, 1583772, 2821397}},
		{bicubic, 100, 256, 0, 0, []int32{4613638, -419334}},
		{bicubic, 100, 256, 37, 13, []int32{-225739, 3983841, 475551, -39349}},
		{box, 513, 256, 128, 257, []int32{2097152, 2097152}},
	} {
		lo, k := newWeights(g.f, g.in, g.out, 0, g.out).taps(g.i)
		// Taps of weight 0 at either end change nothing.
		for len(k) > 0 && k[0] == 0 {
			lo, k = lo+1, k[1:]
		}
		for len(k) > 0 && k[len(k)-1] == 0 {
			k = k[:len(k)-1]
		}
		if lo != g.lo || !slices.Equal(k, g.k) {
			t.Errorf("%d->%d output %d: taps from %d %v, want from %d %v", g.in, g.out, g.i, lo, k, g.lo, g.k)
		}
	}
}

func TestCenterCropBadInput(t *testing.T) {
	for name, call := range map[string]func() error{
		"size 0":    func() error { _, err := CenterCrop(NewImage(2, 2), Square(0)); return err },
		"huge size": func() error { _, err := CenterCrop(NewImage(2, 2), Square(1<<20)); return err },
		"no pixels": func() error { _, err := CenterCrop(&Image{}, Square(4)); return err },
		"short image": func() error {
			_, err := CenterCrop(&Image{W: 4, H: 4, Pix: make([]uint8, 5)}, Square(4))
			return err
		},
		"short dst": func() error {
			c, err := NewCropper(Square(4), PillowClassic)
			if err != nil {
				return nil
			}
			return c.Crop(make([]uint8, 3), NewImage(8, 8))
		},
	} {
		if call() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// A sliver whose full enlargement would take gigabytes: only the window is computed.
	if _, err := CenterCrop(NewImage(1, 100000), Square(256)); err != nil {
		t.Error(err)
	}
}

func TestMirror(t *testing.T) {
	for _, w := range []int{1, 2, 5} {
		img := patterned(w, 3)
		Mirror(img.Pix, Size{Height: img.H, Width: img.W})
		want := patterned(w, 3)
		for y := range 3 {
			for x := range w {
				for c := range 3 {
					if g, h := img.Pix[3*(y*w+x)+c], want.Pix[3*(y*w+w-1-x)+c]; g != h {
						t.Fatalf("width %d at (%d,%d): %d, want %d", w, x, y, g, h)
					}
				}
			}
		}
	}
}

func BenchmarkCrop500x375(b *testing.B) {
	img := patterned(500, 375)
	dst := make([]uint8, 3*256*256)
	run := func(name string, by Resampler, simd bool) {
		b.Run(name, func(b *testing.B) {
			c, err := NewCropper(Square(256), by)
			if err != nil {
				b.Fatal(err)
			}
			c.simd = simd
			for b.Loop() {
				if err := c.Crop(dst, img); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("avx2", PillowClassic, haveSIMD())
	run("portable", PillowClassic, false)
	run("imaging", Imaging, false)
}
