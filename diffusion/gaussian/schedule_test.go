package gaussian

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

// The processes that New makes have the original's tables. Powers and logarithms of another library
// may differ in the last bit.
func TestTablesEqualOriginal(t *testing.T) {
	f, err := checkpoint.Open("../testdata/tables.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, spec := range map[string]string{"full": "", "250": "250", "ddim50": "ddim50"} {
		d, err := New(spec)
		if err != nil {
			t.Fatal(err)
		}
		for table, got := range map[string][]float64{
			"betas": d.Betas, "alphas_cumprod": d.AlphasCumprod, "alphas_cumprod_prev": d.AlphasCumprodPrev,
			"alphas_cumprod_next": d.AlphasCumprodNext,
			"sqrt_alphas_cumprod": d.SqrtAlphasCumprod, "sqrt_one_minus_alphas_cumprod": d.SqrtOneMinusAlphasCumprod,
			"sqrt_recip_alphas_cumprod":      d.SqrtRecipAlphasCumprod,
			"sqrt_recipm1_alphas_cumprod":    d.SqrtRecipM1AlphasCumprod,
			"posterior_variance":             d.PosteriorVariance,
			"posterior_log_variance_clipped": d.PosteriorLogVarianceClipped,
			"posterior_mean_coef1":           d.PosteriorMeanCoef1, "posterior_mean_coef2": d.PosteriorMeanCoef2,
			"log_betas": d.LogBetas,
		} {
			data, err := f.Read(name + "." + table)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) != 8*len(got) {
				t.Fatalf("%s %s: %d entries, want %d", name, table, len(got), len(data)/8)
			}
			for i, v := range got {
				want := math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:]))
				if diff := math.Abs(v - want); !(diff <= 1e-14*math.Abs(want)) {
					t.Errorf("%s %s[%d] = %v, want %v", name, table, i, v, want)
					break
				}
			}
		}
	}
}
