package sheet

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/image/font"
	"golang.org/x/image/math/fixed"
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

// TestGrid checks the layout of torchvision's make_grid with padding 2.
func TestGrid(t *testing.T) {
	var images []image.Image
	for i := range 6 {
		v := uint8(10 * (i + 1))
		img, err := FromRGB(bytes.Repeat([]byte{v, v, v}, 12), 4, 3)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, img)
	}
	g, err := Grid(images, 4, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := g.Bounds().Size(), image.Pt(4*6+2, 2*5+2); got != want {
		t.Fatalf("size %v, want %v", got, want)
	}
	for _, c := range []struct {
		x, y int
		want uint8
	}{
		{0, 0, 0}, {1, 2, 0}, {2, 2, 10}, {5, 4, 10}, {6, 4, 0}, {7, 4, 0}, {8, 2, 20}, {20, 2, 40}, {23, 4, 40},
		{24, 2, 0}, {2, 5, 0}, {2, 7, 50}, {8, 9, 60}, {8, 10, 0}, {14, 8, 0}, {25, 11, 0},
	} {
		if got := color.NRGBAModel.Convert(g.At(c.x, c.y)); got != (color.NRGBA{c.want, c.want, c.want, 255}) {
			t.Errorf("pixel %d,%d is %v, want %d", c.x, c.y, got, c.want)
		}
	}
	one, err := Grid(images[:1], 4, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got := one.Bounds().Size(); got != image.Pt(4, 3) {
		t.Errorf("grid of one image is %v, want it unpadded, 4x3", got)
	}
}

func TestGridErrors(t *testing.T) {
	small, large := disc(4, 0, 0), disc(5, 0, 0)
	for _, c := range []struct {
		images []image.Image
		perRow int
		want   string
	}{
		{nil, 4, "no images"},
		{[]image.Image{small, large}, 4, "image 1 is 5x5, want 4x4"},
		{[]image.Image{small, small}, 0, "grid of 0 per row"},
		{[]image.Image{image.NewNRGBA(image.Rect(0, 0, 0, 0))}, 1, "empty"},
	} {
		if _, err := Grid(c.images, c.perRow, 2); err == nil || !strings.Contains(err.Error(), c.want) {
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

func TestSheet(t *testing.T) {
	var columns, rows []image.Image
	var columnLabels, rowLabels []string
	for i := range 80 {
		columns = append(columns, disc(32, i%10, i/10))
		columnLabels = append(columnLabels, fashion[i%10])
		rows = append(rows, disc(28, i/8, i%8))
		rowLabels = append(rowLabels, fashion[i/8])
	}
	imagenet := []string{"golden retriever", "otter", "red panda, lesser panda, panda, bear cat", "geyser",
		"macaw", "valley, vale", "balloon",
		"golden retriever, a very long name for a dog indeed, longer than its picture"}
	var large []image.Image
	for i := range 8 {
		large = append(large, disc(256, i, i))
	}
	for _, c := range []struct {
		name   string
		images []image.Image
		labels []string
		perRow int
		title  string
		size   image.Point
		place  labelPlace
	}{
		{"columns.png", columns, columnLabels, 10, "DiT-S/2, step 2,000, cfg 4.0", image.Point{}, aboveColumns},
		{"rows.png", rows, rowLabels, 8, "", image.Point{}, leftOfRows},
		{"each.png", large, imagenet, 4, "cfg 4.0, seed 0", image.Point{}, underEach},
		{"plain.png", columns[:7], nil, 4, "", image.Pt(2*margin+4*100-gap, 2*margin+2*100-gap), nowhere},
		{"single.png", columns[:1], []string{"T-shirt/top"}, 4, "a title that is wider than its one small picture",
			image.Point{}, aboveColumns},
	} {
		img, err := Draw(c.images, c.labels, c.perRow, c.title)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := placeLabels(c.labels, len(c.images), min(c.perRow, len(c.images))); got != c.place {
			t.Errorf("%s: labels at %d, want %d", c.name, got, c.place)
		}
		if got := img.Bounds().Size(); c.size != (image.Point{}) && got != c.size {
			t.Errorf("%s is %v, want %v", c.name, got, c.size)
		}
		keep(t, c.name, img)
	}
}

// TestSheetKeepsPixels: an enlarged cell holds each pixel as a square block.
func TestSheetKeepsPixels(t *testing.T) {
	src := disc(32, 4, 3)
	img, err := Draw([]image.Image{src}, nil, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	for y := range 96 {
		for x := range 96 {
			if got, want := img.At(margin+x, margin+y), src.At(x/3, y/3); got != want {
				t.Fatalf("pixel %d,%d is %v, want %v", x, y, got, want)
			}
		}
	}
}

func TestWrap(t *testing.T) {
	face, err := newFace(13)
	if err != nil {
		t.Fatal(err)
	}
	const text = "a photo of an ankle boot on a white background, seen from the left"
	width := font.MeasureString(face, "a photo of an ankle boot").Ceil()
	if got := wrap(face, text, width, 9); strings.Join(got, " ") != text || got[0] != "a photo of an ankle boot" ||
		len(got) < 3 {
		t.Errorf("%q", got)
	}
	if got := wrap(face, text, width, 2); len(got) != 2 || !strings.HasSuffix(got[1], "\u2026") {
		t.Errorf("two lines: %q", got)
	}
	if got := wrap(face, strings.Repeat("a", 100), width, 3); len(got) != 1 || !strings.HasSuffix(got[0], "\u2026") {
		t.Errorf("one long word: %q", got)
	}
	if got := wrap(face, " ", width, 3); len(got) != 0 {
		t.Errorf("no words: %q", got)
	}
	for _, line := range wrap(face, text, 40, 99) {
		if font.MeasureString(face, line) > fixed.I(40) {
			t.Errorf("%q is wider than 40 pixels", line)
		}
	}
}

func TestFit(t *testing.T) {
	face, err := newFace(13)
	if err != nil {
		t.Fatal(err)
	}
	if got := fit(face, "Bag", 96); got != "Bag" {
		t.Errorf("got %q", got)
	}
	got := fit(face, "red panda, lesser panda, panda", 96)
	if !strings.HasPrefix(got, "red panda") || !strings.HasSuffix(got, "\u2026") {
		t.Errorf("got %q", got)
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
	labels := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprint(i))
		}
		return out
	}
	// A row takes 96 pixels and a gap of 4, with labels a line more; the margins are 10 on each side.
	for _, c := range []struct {
		n, perRow int
		labels    []string
		ok        bool
	}{
		{1, 1, nil, true}, {655, 1, nil, true}, {656, 1, nil, false}, {655, 655, nil, true}, {656, 656, nil, false},
		{655 * 655, 655, nil, true},
		{100, 1, labels(100), true}, {5000, 8, nil, true}, {5000, 8, labels(5000), false}, {10_000_000, 20, nil, false},
	} {
		if err := Check(size, c.n, c.labels, c.perRow); (err == nil) != c.ok {
			t.Errorf("sheet of %d, %d a row, %d labels: %v", c.n, c.perRow, len(c.labels), err)
		}
	}
	// 98 pixels a row, and 2
	for n, ok := range map[int]bool{1: true, 4: true, 4 * 668: true, 4*668 + 1: false, 1 << 30: false} {
		if err := CheckGrid(size, n, 4, 2); (err == nil) != ok {
			t.Errorf("grid of %d: %v", n, err)
		}
	}
	err := CheckGrid(size, 1<<20, 4, 2)
	if err == nil || err.Error() != "1048576 images make a sheet of 394x25690114 pixels: want at most 65535 a side" {
		t.Errorf("%v", err)
	}
}
