package sheet

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// disc is a stand-in for a sample: a shape that depends on class and number.
func disc(size, class, number int) image.Image {
	img := image.NewNRGBA(image.Rect(0, 0, size, size))
	for y := range size {
		for x := range size {
			c := float64(size-1) / 2
			r := math.Hypot(float64(x)-c, float64(y)-c) / float64(size) * 2
			v := uint8(0)
			if r < 0.4+0.05*float64(number%8) {
				v = uint8(255 * (1 - 0.7*r))
			}
			img.SetNRGBA(x, y, color.NRGBA{v, uint8(int(v) * (class + 3) / 13), v / 2, 255})
		}
	}
	return img
}

func keep(t *testing.T, name string, img image.Image) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	// For looking at: PICTURES=dir go test.
	if dir := os.Getenv("PICTURES"); dir != "" {
		path = filepath.Join(dir, name)
	}
	if err := WritePNG(path, img); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	back, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if back.Bounds().Size() != img.Bounds().Size() {
		t.Errorf("%s is %v, want %v", name, back.Bounds(), img.Bounds())
	}
}

func TestErrors(t *testing.T) {
	small, large := disc(4, 0, 0), disc(5, 0, 0)
	for _, c := range []struct {
		images []image.Image
		want   string
	}{
		{nil, "no images"},
		{[]image.Image{small, large}, "image 1 is 5x5, want 4x4"},
		{[]image.Image{image.NewNRGBA(image.Rect(0, 0, 0, 0))}, "empty"},
	} {
		if _, err := Draw(c.images, Options{Fonts: GoFonts()}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	if _, err := FromRGB(make([]uint8, 11), 2, 2); err == nil ||
		!strings.Contains(err.Error(), "11 bytes for 2x2 RGB pixels, want 12") {
		t.Errorf("FromRGB: %v", err)
	}
	if _, err := Batch(make([]uint8, 12), 2, 2, 2); err == nil || !strings.Contains(err.Error(), "want 24") {
		t.Errorf("Batch: %v", err)
	}
}

func TestBatch(t *testing.T) {
	pix := make([]uint8, 2*2*1*3)
	for i := range pix {
		pix[i] = uint8(i)
	}
	images, err := Batch(pix, 2, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := images[1].At(1, 0); got != (color.NRGBA{9, 10, 11, 255}) {
		t.Errorf("second image, second pixel: %v", got)
	}
}

var fashion = []string{"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
	"Ankle boot"}

// numbered are labels whose classes are numbered.
func numbered(names ...string) (labels []Label) {
	for i, name := range names {
		labels = append(labels, Label{Text: name, Else: fmt.Sprint(i)})
	}
	return labels
}

func TestSheet(t *testing.T) {
	var columns, rows []image.Image
	var columnLabels, rowLabels []Label
	names := numbered(fashion...)
	for i := range 80 {
		columns = append(columns, disc(32, i%10, i/10))
		columnLabels = append(columnLabels, names[i%10])
		rows = append(rows, disc(28, i/8, i%8))
		rowLabels = append(rowLabels, names[i/8])
	}
	imagenet := numbered("golden retriever", "otter", "red panda", "geyser", "macaw", "valley", "balloon",
		"golden retriever, a very long name for a dog indeed, longer than its picture, which is cut behind two lines")
	var large []image.Image
	for i := range 8 {
		large = append(large, disc(256, i, i))
	}
	for _, c := range []struct {
		name    string
		images  []image.Image
		labels  []Label
		columns int
		title   string
		shape   image.Point // columns and rows
		place   labelPlace
	}{
		{"columns.png", columns, columnLabels, 10, "DiT-S/2, step 2,000, cfg 4.0", image.Pt(10, 8), aboveColumns},
		{"rows.png", rows, rowLabels, 0, "", image.Pt(8, 10), leftOfRows},
		{"each.png", large, imagenet, 0, "cfg 4.0, seed 0", image.Pt(3, 3), underEach},
		{"plain.png", columns[:7], nil, 0, "", image.Pt(3, 3), nowhere},
		{"single.png", columns[:1], names[:1], 0, "a title that is wider than its one small picture", image.Pt(1, 1),
			underEach},
		{"same.png", rows[:8], rowLabels[:8], 0, "", image.Pt(3, 3), nowhere},
	} {
		o := Options{Labels: c.labels, Columns: c.columns, Title: c.title, Fonts: GoFonts()}
		l, err := newLayout(c.images[0].Bounds().Size(), len(c.images), o)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		rows := (len(c.images) + l.columns - 1) / l.columns
		if got := image.Pt(l.columns, rows); got != c.shape || l.place != c.place {
			t.Errorf("%s: %v images, labels at %d, want %v, %d", c.name, got, l.place, c.shape, c.place)
		}
		img, err := Draw(c.images, o)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if img.Bounds().Size() != l.size {
			t.Errorf("%s: is %v, was to be %v", c.name, img.Bounds(), l.size)
		}
		keep(t, c.name, img)
	}
}

// TestShape: whatever their number, images without labels lie nearly in a square or in 4:3.
func TestShape(t *testing.T) {
	for _, size := range []image.Point{{32, 32}, {64, 64}, {256, 256}, {256, 384}, {384, 256}, {48, 32}} {
		for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17, 20, 50, 100, 101, 1000} {
			if columns, rows := Most(size); n > columns*rows {
				continue
			}
			for _, labelled := range []bool{false, true} {
				o := Options{Fonts: GoFonts()}
				for i := range n {
					if labelled {
						o.Labels = append(o.Labels, Label{Text: fmt.Sprint("class ", i)})
					}
				}
				l, err := newLayout(size, n, o)
				if err != nil {
					t.Fatalf("%d of %v: %v", n, size, err)
				}
				rows := (n + l.columns - 1) / l.columns
				ratio := float64(l.columns*l.pitch.X) / float64(rows*l.pitch.Y)
				low, high := 0.7, 1.8
				if n < 4 { // of which some shapes are not to be had
					low, high = 0.5, 3
				}
				if ratio < low || ratio > high || l.columns*rows-n >= l.columns {
					t.Errorf("%d of %v, labelled %v: %d columns, %d rows, %.2f times as wide as high", n, size,
						labelled,
						l.columns, rows, ratio)
				}
			}
		}
	}
	for _, c := range []struct{ classes, each, columns int }{
		{10, 10, 10}, {10, 4, 4}, {4, 10, 10}, {3, 2, 2}, {20, 8, 8},
		{1, 13, 4}, {2, 8, 4}, // a row of each would be a strip
		{100, 2, 16}, {100, 3, 21}, // rows of whole classes
		{13, 1, 5},
	} {
		var labels []Label
		for i := range c.classes * c.each {
			labels = append(labels, Label{Text: fmt.Sprint("class ", i/c.each)})
		}
		l, err := newLayout(image.Pt(32, 32), len(labels), Options{Labels: labels, Fonts: GoFonts()})
		if err != nil || l.columns != c.columns {
			t.Errorf("%d each of %d classes: %d columns (%v), want %d", c.each, c.classes, l.columns, err, c.columns)
		}
	}
}

// TestSheetKeepsPixels: an enlarged cell holds each pixel as a square block.
func TestSheetKeepsPixels(t *testing.T) {
	src := disc(32, 4, 3)
	img, err := Draw([]image.Image{src}, Options{Fonts: GoFonts()})
	if err != nil {
		t.Fatal(err)
	}
	for y := range 96 {
		for x := range 96 {
			if got, want := color.NRGBAModel.Convert(img.At(margin+x, margin+y)), src.At(x/3, y/3); got != want {
				t.Fatalf("pixel %d,%d is %v, want %v", x, y, got, want)
			}
		}
	}
}

func TestWritePNGLeavesNothingOnError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.png")
	if err := WritePNG(path, image.NewNRGBA(image.Rect(0, 0, 0, 0))); err == nil {
		t.Error("an empty image was written")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left %v", entries)
	}
	if got, want := NumberedName("out", 17), filepath.Join("out", "000017.png"); got != want {
		t.Errorf("name %s, want %s", got, want)
	}
}

func ExampleNumberedName() {
	fmt.Println(NumberedName("samples", 17))
	// Output: samples/000017.png
}

// The size of a sheet is known before it is drawn, and has a bound.
func TestCheckSize(t *testing.T) {
	size := image.Pt(96, 96)
	labels := func(n int) (out []Label) {
		for i := range n {
			out = append(out, Label{Text: fmt.Sprint(i)})
		}
		return out
	}
	// An image takes 96 pixels and a gap of 4, with labels a line of 16 more and a gap; the margins are 10 on each
	// side.
	for _, c := range []struct {
		n, columns int
		labels     []Label
		ok         bool
	}{
		{1, 1, nil, true}, {40, 1, nil, true}, {41, 1, nil, false}, {40, 40, nil, true}, {41, 41, nil, false},
		{1600, 0, nil, true}, {1601, 0, nil, false}, {1000, 0, labels(1000), true}, {1600, 0, labels(1600), false},
		{10_000_000, 20, nil, false}, {10_000_000, 0, nil, false},
	} {
		o := Options{Labels: c.labels, Columns: c.columns, Fonts: GoFonts()}
		if err := Check(size, c.n, o); (err == nil) != c.ok {
			t.Errorf("sheet of %d, %d a row, %d labels: %v", c.n, c.columns, len(c.labels), err)
		}
	}
	// What the error says is right.
	for _, size := range []image.Point{{32, 32}, {256, 256}, {512, 512}, {1024, 768}, {64, 80}} {
		for _, labelled := range []bool{false, true} {
			options := func(n int) (o Options) {
				if o.Fonts = GoFonts(); labelled {
					o.Labels = labels(n)
				}
				return o
			}
			var tooMany *TooManyError
			if err := Check(size, 5000, options(5000)); !errors.As(err, &tooMany) {
				t.Fatalf("5000 of %v: %v", size, err)
			}
			most := tooMany.Most
			if err := Check(size, most, options(most)); err != nil {
				t.Errorf("%d of %v, labelled %v: %v", most, size, labelled, err)
			}
			if err := Check(size, most+1, options(most+1)); err == nil {
				t.Errorf("%d of %v, labelled %v fit", most+1, size, labelled)
			}
		}
		columns, rows := Most(size)
		o := Options{Labels: labels(columns * rows), Columns: columns, Title: "step 1,000", Fonts: GoFonts()}
		if err := Check(size, columns*rows, o); err != nil {
			t.Errorf("%d x %d of %v: %v", columns, rows, size, err)
		}
	}
	if err := Check(image.Pt(6000, 5000), 1, Options{}); err != nil {
		t.Errorf("a large picture alone: %v", err)
	}
	err := Check(image.Pt(256, 256), 1<<20, Options{})
	if err == nil || err.Error() !=
		"1048576 pictures of 256x256: a sheet, of at most 4096 pixels a side, holds 225" {
		t.Errorf("%v", err)
	}
}

// TestMostWithLabels: as many images as Most says fit, wherever their labels stand and however long these are.
func TestMostWithLabels(t *testing.T) {
	long := strings.Repeat("a caption ", 8)
	for _, side := range []int{560, 790, 1000, 1340, 2030} {
		size := image.Pt(side, side)
		columns, rows := Most(size)
		for name, of := range map[string]func(i int) int{
			"at the left": func(i int) int { return i / columns },
			"above":       func(i int) int { return i % columns },
			"under each":  func(i int) int { return i },
		} {
			o := Options{Columns: columns, Title: long, Fonts: GoFonts()}
			for i := range columns * rows {
				o.Labels = append(o.Labels, Label{Text: fmt.Sprint(of(i), long), Note: "24.0 dB"})
			}
			if err := Check(size, columns*rows, o); err != nil {
				t.Errorf("labels %s: %v", name, err)
			}
		}
	}
	// With a number of columns the error says how many fit into such.
	var labels []Label
	for i := range 16 {
		labels = append(labels, Label{Text: fmt.Sprint(i/4, long)})
	}
	for columns, most := range map[int]int{1: 3, 2: 8, 4: 12} { // of 4 there is room for 3
		err := Check(image.Pt(1000, 1000), 16, Options{Labels: labels, Columns: columns, Title: "x", Fonts: GoFonts()})
		if tooMany := (*TooManyError)(nil); !errors.As(err, &tooMany) || tooMany.Most != most {
			t.Errorf("%d columns: %v, want %d", columns, err, most)
		}
	}
}
