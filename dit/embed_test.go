package dit

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func TestPositionsEqualOriginal(t *testing.T) {
	g := torchtest.Open(t, "testdata/embeddings.safetensors")
	var rows []int
	g.Config("rows", &rows)
	torchtest.Run(t, func(s *torch.Scope) error {
		check := func(what string, got, want []float32) {
			t.Helper()
			if len(got) != len(want) {
				t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
			}
			for i := range got {
				// Both come from float64; sines of other libraries may round the last float32 bit otherwise.
				if math.Abs(float64(got[i]-want[i])) > 6e-8 {
					t.Errorf("%s: value %d is %v, want %v", what, i, got[i], want[i])
					return
				}
			}
		}
		for _, c := range [][2]int{{48, 4}, {48, 8}, {24, 3}} {
			name := fmt.Sprintf("pos_embed.%d.%d", c[0], c[1])
			check(name, positions(c[0], c[1], c[1]), torch.Data[float32](g.Tensor(s, name)))
		}
		xl := positions(1152, 16, 16)
		var got []float32
		for _, r := range rows {
			got = append(got, xl[r*1152:(r+1)*1152]...)
		}
		check("pos_embed.1152.16.rows", got, torch.Data[float32](g.Tensor(s, "pos_embed.1152.16.rows")))
		return nil
	})
}

// The first half of the channels codes the column, the second the row; sines come before cosines.
func TestPositionsByHand(t *testing.T) {
	for _, c := range []struct {
		dim, token, channel int
		want                float64
	}{
		{1152, 0, 0, 0}, {1152, 0, 288, 1}, {1152, 0, 576, 0}, {1152, 0, 864, 1},
		{1152, 1, 0, 0.841470957}, {1152, 1, 1, 0.824051321}, {1152, 1, 287, 0.000103249724},
		{1152, 1, 288, 0.540302277}, {1152, 1, 576, 0}, {1152, 1, 864, 1},
		{1152, 16, 0, 0}, {1152, 16, 288, 1}, {1152, 16, 576, 0.841470957}, {1152, 16, 577, 0.824051321},
		{1152, 16, 864, 0.540302277},
		{1152, 17, 0, 0.841470957}, {1152, 17, 576, 0.841470957},
		{1152, 255, 0, 0.650287867}, {1152, 255, 1, 0.924636126}, {1152, 255, 288, -0.759687901},
		{1152, 255, 575, 0.999998808}, {1152, 255, 1151, 0.999998808},
		{384, 1, 1, 0.788593054}, {384, 1, 95, 0.000110069413},
	} {
		got := float64(positions(c.dim, 16, 16)[c.token*c.dim+c.channel])
		if math.Abs(got-c.want) > 6e-8 {
			t.Errorf("width %d, token %d, channel %d: %.9f, want %.9f", c.dim, c.token, c.channel, got, c.want)
		}
	}
	for dim, want := range map[int]float64{1152: 134598.947804, 384: 44720.338560} {
		sum := 0.0
		for _, v := range positions(dim, 16, 16) {
			sum += float64(v)
		}
		if math.Abs(sum-want) > 1e-3 {
			t.Errorf("width %d: sum %.6f, want %.6f", dim, sum, want)
		}
	}
}

// goldenFrequencies returns the frequencies of the machine that made the goldens. libtorch's exponential differs by a
// unit in the last place from processor to processor, and at t = 999 that moves the code by up to 6e-5, so goldens of
// 1e-5 are compared with that machine's: the exact values, rounded, but for one.
func goldenFrequencies() []float32 {
	freqs := make([]float32, frequencyEmbeddingSize/2)
	for i := range freqs {
		exponent := float32(-math.Log(10000)) * float32(i) / float32(len(freqs))
		freqs[i] = float32(math.Exp(float64(exponent)))
	}
	freqs[12] = math.Nextafter32(freqs[12], 1)
	return freqs
}

func TestTimestepCodeEqualsOriginal(t *testing.T) {
	g := torchtest.Open(t, "testdata/embeddings.safetensors")
	torchtest.Run(t, func(s *torch.Scope) error {
		freqs := goldenFrequencies()
		for i, f := range frequencies(s, 0) {
			if math.Abs(float64(f-freqs[i])) > 1.2e-7*float64(freqs[i]) {
				t.Errorf("frequency %d is %.9g, want %.9g to a unit in the last place", i, f, freqs[i])
			}
		}
		steps := g.Tensor(s, "t") // one of them is 0.5
		// Only frequencies that are equal in every bit are that close at t = 999.
		code := func(t *torch.Tensor) *torch.Tensor { return timestepCode(s, t, torch.From(s, freqs, 1, len(freqs))) }
		got, want := code(steps), g.Tensor(s, "t_freq")
		if d := s.MaxAll(s.Abs(s.Subtract(got, want))).Item(); !(d <= 2e-7) {
			t.Errorf("largest difference %.2g", d)
		}
		whole := torch.From(s, []int64{0, 1, 999}, 3)
		rows := torch.Data[float32](code(whole))
		if !slices.Equal(rows[:128], slices.Repeat([]float32{1}, 128)) ||
			!slices.Equal(rows[128:256], make([]float32, 128)) {
			t.Error("code of step 0: want 128 ones, then 128 zeros")
		}
		for at, want := range map[int]float64{
			256: 0.54030228, 256 + 1: 0.59737533, 256 + 127: 1, 256 + 128: 0.84147102, 256 + 129: 0.80196178,
			256 + 255: 0.00010746075,
			512:       0.99964988, 512 + 1: 0.96378529, 512 + 127: 0.99424314, 512 + 128: -0.026460754,
			512 + 129: -0.26667938, 512 + 255: 0.10714721,
		} {
			if math.Abs(float64(rows[at])-want) > 1e-6 {
				t.Errorf("code of step %d, channel %d: %.8f, want %.8f", []int{0, 1, 999}[at/256], at%256, rows[at],
					want)
			}
		}
		return nil
	})
}
