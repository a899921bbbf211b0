package vae

import (
	"bytes"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Other types and memory orders give the same moments, as nearly as the type can.
func TestAs(t *testing.T) {
	m, err := Open(filepath.Join("testdata", "tiny"), torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.notes = []string{"a note"}
	rgb := make([]uint8, 2*16*16*3)
	for i := range rgb {
		rgb[i] = uint8(i*7 + i/31)
	}
	moments := func(in func(s *torch.Scope) *AutoencoderKL) (mean, logvar []float32) {
		torchtest.Run(t, func(s *torch.Scope) error {
			a, b := in(s).Encode(s.NoGrad(), Pixels(s, rgb, 2, 16, 16))
			mean, logvar = torch.Data[float32](s.To(a, torch.Float32)), torch.Data[float32](s.To(b, torch.Float32))
			return nil
		})
		return mean, logvar
	}
	itself := func(*torch.Scope) *AutoencoderKL { return m }
	want, wantVar := moments(itself)
	scale := 0.0
	for i := range want {
		scale = max(scale, math.Abs(float64(want[i])), math.Abs(float64(wantVar[i])))
	}
	for _, c := range []struct {
		dtype        torch.DType
		channelsLast bool
		tolerance    float64 // of the largest moment: some units in the last place of the type
	}{
		{torch.Float32, false, 0},
		{torch.Float32, true, 1e-5},
		{torch.BFloat16, false, 4e-2},
		{torch.BFloat16, true, 4e-2},
		{torch.Float16, true, 5e-3},
	} {
		live := torch.Live()
		mean, logvar := moments(func(s *torch.Scope) *AutoencoderKL {
			as := m.as(s, c.dtype, c.channelsLast)
			if as.WeightsSHA256() != m.WeightsSHA256() || as.Config().ScalingFactor != m.Config().ScalingFactor ||
				!slices.Equal(as.Notes(), m.Notes()) {
				t.Error("not the same model")
			}
			return as
		})
		if n := torch.Live(); n != live {
			t.Errorf("%v: %d tensors live, %d before", c.dtype, n, live)
		}
		worst := 0.0
		for i := range mean {
			worst = max(worst, math.Abs(float64(mean[i]-want[i])), math.Abs(float64(logvar[i]-wantVar[i])))
		}
		t.Logf("%v, channels last %v: %.1e of the largest moment", c.dtype, c.channelsLast, worst/scale)
		if !(worst <= c.tolerance*scale) {
			t.Errorf("%v, channels last %v: off by %.2e of the largest moment, want at most %.0e", c.dtype,
				c.channelsLast, worst/scale, c.tolerance)
		}
	}
	if again, _ := moments(itself); again[0] != want[0] {
		t.Error("the model itself was changed")
	}
}

// Levels are computed in Float32 whatever the model gave: bfloat16 would round them up, where they are cut off.
func TestRGBOfBFloat16(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		x := make([]float32, 3*16*16)
		for i := range x {
			x[i] = float32(i)/384 - 1
		}
		narrow := s.To(torch.From(s, x, 1, 3, 16, 16), torch.BFloat16)
		got, err := RGB(s, narrow)
		if err != nil {
			return err
		}
		want, err := RGB(s, s.To(narrow, torch.Float32))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			t.Error("levels depend on the type")
		}
		return nil
	})
}
