package dit

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

// adapted opens a numbered model with class names a, b, ... and changes it.
func adapted(t *testing.T, c Config, ch Changes) (*Weights, []string) {
	t.Helper()
	info := Info{Config: c, ImageSize: 64, ScalingFactor: 1}
	for i := range c.NumClasses {
		info.Classes = append(info.Classes, string(rune('a'+i)))
	}
	info.Classes[2] = "tench, Tinca tinca"
	meta, err := info.metadata()
	if err != nil {
		t.Fatal(err)
	}
	w := read(t, write(t, filepath.Join(t.TempDir(), "w.safetensors"), numbered(c), meta), "")
	did, err := w.Adapt(ch)
	if err != nil {
		t.Fatal(err)
	}
	var shapes, want []string
	for _, info := range w.Tensors() {
		shapes = append(shapes, fmt.Sprint(info.Name, info.Shape))
	}
	for _, p := range w.Config.layout() {
		want = append(want, fmt.Sprint(p.name, p.shape))
	}
	if !slices.Equal(shapes, want) {
		t.Errorf("tensors %v, want %v", shapes, want)
	}
	return w, did
}

// rows returns the rows of a tensor.
func rows(t *testing.T, src checkpoint.Source, name string) [][]byte {
	t.Helper()
	data, err := checkpoint.Read(src, name)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := src.Lookup(name)
	var out [][]byte
	for row := range slices.Chunk(data, len(data)/int(info.Shape[0])) {
		out = append(out, row)
	}
	return out
}

func TestAdaptClasses(t *testing.T) {
	c := small()
	old := rows(t, checkpoint.Memory(numbered(c)), labelTable)
	none, some := 0.0, 0.1
	without := c
	without.ClassDropoutProb = 0
	for _, x := range []struct {
		name string
		from Config
		ch   Changes
		want []int // rows of the old table, -1 for new ones
		said string
	}{
		{"nothing", c, Changes{}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, ""},
		{"the same number", c, Changes{NumClasses: 10}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, ""},
		{"another number", c, Changes{NumClasses: 3}, []int{-1, -1, -1, 10},
			"3 classes instead of 10: all drawn anew, the null class kept"},
		{"by name", c, Changes{Classes: []string{"J", "new", "tinca tinca", "a"}}, []int{9, -1, 2, 0, 10},
			"4 classes instead of 10: 3 kept by name, 1 drawn anew, the null class kept"},
		{"in another order", c, Changes{Classes: strings.Split("a b tench d e f g h j i", " ")},
			[]int{0, 1, 2, 3, 4, 5, 6, 7, 9, 8, 10},
			"10 classes instead of 10: 10 kept by name, 0 drawn anew, the null class kept"},
		{"no null class", c, Changes{ClassDropoutProb: &none}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
			"10 classes instead of 10: all kept, the null class dropped"},
		{"a null class", without, Changes{ClassDropoutProb: &some}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1},
			"10 classes instead of 10: all kept, a null class drawn"},
	} {
		w, did := adapted(t, x.from, x.ch)
		if strings.Join(did, "; ") != x.said {
			t.Errorf("%s: said %q, want %q", x.name, did, x.said)
		}
		got := rows(t, w, labelTable)
		if len(got) != len(x.want) {
			t.Errorf("%s: %d rows, want %d", x.name, len(got), len(x.want))
			continue
		}
		for i, row := range x.want {
			if row >= 0 && !bytes.Equal(got[i], old[row]) {
				t.Errorf("%s: row %d is not row %d of the old table", x.name, i, row)
			}
			if row < 0 {
				if d := deviation(got[i]); d < 0.017 || d > 0.023 {
					t.Errorf("%s: row %d has deviation %g, want about 0.02", x.name, i, d)
				}
			}
		}
	}
}

// A name is the same in both forms of Unicode. The case counts where two names differ in nothing else.
func TestPlacesOfClasses(t *testing.T) {
	p := labelsOf([]string{"Cat", "cat", "caf\u00e9", "tench, Tinca tinca", "tinca tinca", "Ox"})
	for name, want := range map[string]int{"Cat": 0, "cat": 1, "CAT": -1, "cafe\u0301": 2, "CAFE\u0301": 2, "cafe": -1,
		"tench": 3, "Tinca tinca": 4, "ox": 5, "": -1} {
		if got := p.of(name); got != want {
			t.Errorf("%q is class %d, want %d", name, got, want)
		}
	}
}

func deviation(row []byte) float64 {
	sum := 0.0
	for b := range slices.Chunk(row, 4) {
		v := float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
		sum += v * v
	}
	return math.Sqrt(sum / float64(len(row)/4))
}

func TestAdaptSize(t *testing.T) {
	w, did := adapted(t, small(), Changes{InputSize: 16})
	if w.Config.InputSize != 16 || w.ImageSize != 128 || len(did) != 1 ||
		!strings.Contains(did[0], "positions computed for latents of 16 instead of 8") {
		t.Errorf("%+v, said %q", w.Info, did)
	}
	want := small()
	want.InputSize = 16
	got, err := checkpoint.Read(w, posEmbed)
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := checkpoint.Read(checkpointOf(t, want), posEmbed); !bytes.Equal(got, p) {
		t.Error("the positions are not those of a new model")
	}
}

func TestAdaptVariance(t *testing.T) {
	on, off := true, false
	c := small()
	w, did := adapted(t, c, Changes{LearnSigma: &off})
	if w.Config.LearnSigma || !slices.Equal(did, []string{"variance channels dropped"}) {
		t.Errorf("%+v, said %q", w.Config, did)
	}
	for _, name := range []string{"final_layer.linear.weight", "final_layer.linear.bias"} {
		old := rows(t, checkpoint.Memory(numbered(c)), name)
		for i, row := range rows(t, w, name) {
			if pixel, channel := i/4, i%4; !bytes.Equal(row, old[pixel*8+channel]) {
				t.Errorf("%s: row %d is not channel %d of pixel %d", name, i, channel, pixel)
			}
		}
	}
	c.LearnSigma = false
	w, did = adapted(t, c, Changes{LearnSigma: &on})
	if !w.Config.LearnSigma || !slices.Equal(did, []string{"variance channels added, starting at zero"}) {
		t.Errorf("%+v, said %q", w.Config, did)
	}
	for _, name := range []string{"final_layer.linear.weight", "final_layer.linear.bias"} {
		old := rows(t, checkpoint.Memory(numbered(c)), name)
		for i, row := range rows(t, w, name) {
			pixel, channel := i/8, i%8
			if channel < 4 && !bytes.Equal(row, old[pixel*4+channel]) || channel >= 4 && deviation(row) != 0 {
				t.Errorf("%s: row %d is wrong", name, i)
			}
		}
	}
}

func TestAdaptRefuses(t *testing.T) {
	c := small()
	w := read(t, write(t, filepath.Join(t.TempDir(), "w.safetensors"), numbered(c), nil), "")
	if _, err := w.Adapt(Changes{InputSize: 30}); err == nil ||
		!strings.Contains(err.Error(), "latent size 30 is not divisible by patch size 4") {
		t.Errorf("error %v", err)
	}
	if w.Config != c {
		t.Error("a change that failed left its mark")
	}
}
