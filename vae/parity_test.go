package vae

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

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
			centre := float32(0)
			if strings.Contains(param.Name, "norm") && strings.HasSuffix(param.Name, "weight") {
				centre = 1
			}
			if err := torchtest.PhiloxWeights(param.Tensor, i, 0, centre); err != nil {
				return err
			}
		}
		s = s.NoGrad()
		x, z := s.Zeros(torch.Float32, 1, 3, 256, 256), s.Zeros(torch.Float32, 1, 4, 32, 32)
		if err := errors.Join(torchtest.PhiloxWeights(x, 1000, 2, 0),
			torchtest.PhiloxWeights(z, 1001, 8, 0)); err != nil {
			return err
		}
		// The reference is diffusers in float64. In float32 diffusers itself is 1.5e-6 from it on one processor and
		// 5.5e-6 on another, whose convolutions round otherwise; ours is 5.4e-6 there.
		const limit = 1e-5
		mean, logvar := m.Encode(s, x)
		pixels := m.Decode(s, z)
		moments := g.Tensor(s, "moments")
		if d := torchtest.Relative(s, mean, s.Narrow(moments, 1, 0, 4)); !(d < limit) {
			t.Errorf("mean: %g from diffusers", d)
		} else {
			t.Logf("mean: %.1e", d)
		}
		if d := torchtest.Relative(s, logvar, s.Clamp(s.Narrow(moments, 1, 4, 4), -30, 20)); !(d < limit) {
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
		if d := torchtest.Relative(s, torch.From(s, some, want.Shape()...), want); !(d < limit) {
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
