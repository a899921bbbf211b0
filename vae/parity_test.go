package vae

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

// philoxWeights fills out, tensor number n of a state dict, as bench/parity/philox_weights.py does.
func philoxWeights(out []float32, n int, scale, centre float32) {
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	share := (len(out)/4 + workers) / workers * 4
	for lo := 0; lo < len(out); lo += share {
		wg.Go(func() {
			for i := lo; i < min(lo+share, len(out)); i += 4 {
				words := philox.Block(0, uint32(i/4), philox.TagWeights, 0, uint64(n))
				for j, w := range words[:min(4, len(out)-i)] {
					out[i+j] = (float32(w>>8)*0x1p-24-0.5)*scale + centre
				}
			}
		})
	}
	wg.Wait()
}

// Encoder and decoder at the size of Stable Diffusion, on a 256-pixel image.
func TestStableDiffusionEqualsDiffusers(t *testing.T) {
	if testing.Short() {
		t.Skip("450 GMACs: not with -short")
	}
	g := torchtest.Open(t, "testdata/sd_real.safetensors")
	torchtest.Run(t, func(s *torch.Scope) error {
		m, err := New(s, StableDiffusion())
		if err != nil {
			return err
		}
		defer m.Close()
		for i, param := range nn.List(m) { // the order of diffusers' state dict
			p, name := param.Tensor, param.Name
			scale, centre := float32(0.25), float32(0)
			if p.Rank() > 1 {
				fanIn := p.NumElements() / p.Dim(0)
				scale = float32(math.Pow(2, 1-math.Floor(math.Log2(float64(fanIn))/2)))
			} else if strings.Contains(name, "norm") && strings.HasSuffix(name, "weight") {
				centre = 1
			}
			err := p.Fill(func(b []byte, _ int64) error {
				philoxWeights(unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4), i, scale, centre)
				return nil
			})
			if err != nil {
				return err
			}
		}
		s = s.NoGrad()
		x, z := make([]float32, 3*256*256), make([]float32, 4*32*32)
		philoxWeights(x, 1000, 2, 0)
		philoxWeights(z, 1001, 8, 0)
		mean, logvar := m.Encode(s, torch.From(s, x, 1, 3, 256, 256))
		pixels := m.Decode(s, torch.From(s, z, 1, 4, 32, 32))
		moments := g.Tensor(s, "moments")
		if d := torchtest.Relative(s, mean, s.Narrow(moments, 1, 0, 4)); !(d < tolerance) {
			t.Errorf("mean: %g from diffusers", d)
		} else {
			t.Logf("mean: %.1e", d)
		}
		if d := torchtest.Relative(s, logvar, s.Clamp(s.Narrow(moments, 1, 4, 4), -30, 20)); !(d < tolerance) {
			t.Errorf("logvar: %g from diffusers", d)
		}
		all := torch.Data[float32](pixels)
		var some []float32
		for c := range 3 {
			for row := 0; row < 256; row += 7 {
				for col := 0; col < 256; col += 7 {
					some = append(some, all[(c*256+row)*256+col])
				}
			}
		}
		want := g.Tensor(s, "pixels")
		if d := torchtest.Relative(s, torch.From(s, some, want.Shape()...), want); !(d < tolerance) {
			t.Errorf("pixels: %g from diffusers", d)
		} else {
			t.Logf("pixels: %.1e", d)
		}
		if norm, want := s.Norm(pixels).Item(), g.Tensor(s, "pixels_norm").Item(); math.Abs(norm-want) > 1e-5*want {
			t.Errorf("norm of the picture %v, want %v", norm, want)
		}
		return nil
	})
}
