package vae

import "testing"

// TestMACsOfStableDiffusion: half of the floating-point operations that torch.utils.flop_counter of PyTorch 2.11.0
// counts in diffusers 0.35.2.
func TestMACsOfStableDiffusion(t *testing.T) {
	c := StableDiffusion()
	for _, want := range []struct {
		height, width  int
		encode, decode float64
	}{{256, 256, 136361082880, 311093641216}, {64, 128, 16927694848, 38769264640}} {
		if got := c.EncodeMACs(want.height, want.width); got != want.encode {
			t.Errorf("encode %dx%d: %.0f, want %.0f", want.height, want.width, got, want.encode)
		}
		if got := c.DecodeMACs(want.height, want.width); got != want.decode {
			t.Errorf("decode %dx%d: %.0f, want %.0f", want.height, want.width, got, want.decode)
		}
	}
}
