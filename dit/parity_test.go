package dit

import (
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// philoxWeights fills t, tensor number n of its state dict, as bench/parity/philox_weights.py does.
func philoxWeights(t *torch.Tensor, n int) error {
	fanIn := 1
	for i := 1; i < t.Rank(); i++ {
		fanIn *= t.Dim(i)
	}
	scale := float32(0.25)
	if t.Rank() > 1 {
		scale = float32(math.Pow(2, 1-math.Floor(math.Log2(float64(fanIn))/2)))
	}
	return t.Fill(func(p []byte, _ int64) error {
		out := unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(p))), len(p)/4)
		var wg sync.WaitGroup
		workers := runtime.GOMAXPROCS(0)
		share := (len(out)/4 + workers) / workers * 4
		for lo := 0; lo < len(out); lo += share {
			wg.Go(func() {
				for i := lo; i < min(lo+share, len(out)); i += 4 {
					words := philox.Block(0, uint32(i/4), philox.TagWeights, 0, uint64(n))
					for j, w := range words[:min(4, len(out)-i)] {
						out[i+j] = (float32(w>>8)*0x1p-24 - 0.5) * scale
					}
				}
			})
		}
		wg.Wait()
		return nil
	})
}

// The forward pass at all sizes of the paper, with random weights that are nowhere zero. L and XL take
// most of the time.
func TestTwelveSizesEqualOriginal(t *testing.T) {
	g := torchtest.Open(t, "testdata/sizes.safetensors")
	for _, name := range Names() {
		if testing.Short() && strings.Contains(name, "L") {
			continue
		}
		cfg, err := Named(name)
		if err != nil {
			t.Fatal(err)
		}
		torchtest.Run(t, func(s *torch.Scope) error {
			m, err := New(s, cfg)
			if err != nil {
				return err
			}
			defer nn.Close(m)
			for i, p := range nn.List(m) {
				if p.Name == posEmbed {
					continue
				}
				if err := philoxWeights(p.Tensor, i); err != nil {
					return err
				}
			}
			s = s.NoGrad()
			out := m.Forward(s, g.Tensor(s, "x"), g.Tensor(s, "t"), g.Tensor(s, "y"))
			d := torchtest.Relative(s, out, g.Tensor(s, name+".out"))
			t.Logf("%s: %.1e", name, d)
			if !(d < tolerance) {
				t.Errorf("%s: %g from the original", name, d)
			}
			return nil
		})
	}
}
