package machine

import (
	"math"
	"testing"
)

func TestPeakTFLOPS(t *testing.T) {
	for _, c := range []struct {
		name, precision string
		want            float64
	}{
		{"NVIDIA A100-SXM4-80GB", "bf16", 312},
		{"A100-PCIE-40GB", "tf32", 156},
		{"NVIDIA H100 80GB HBM3", "bf16", 989.4},
		{"NVIDIA H100 PCIe", "bf16", 756},
		{"NVIDIA H200", "tf32", 494.7},
		{"NVIDIA L40S", "fp32", 91.6},
		{"NVIDIA GeForce RTX 4090", "bf16", 165.2},
		{"NVIDIA GeForce RTX 3090", "bf16", 71},
		{"NVIDIA RTX 6000 Ada Generation", "tf32", 182.1},
		{"NVIDIA H100 NVL", "bf16", 0},
		{"NVIDIA H200 NVL", "bf16", 0},
		{"NVIDIA GeForce RTX 3090 Ti", "bf16", 0},
		{"NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", 0},
		{"NVIDIA A100-SXM4-80GB MIG 3g.40gb", "bf16", 0},
		{"NVIDIA RTX 6000", "bf16", 0},
		{"NVIDIA H200", "fp8", 0},
		{"", "fp32", 0},
	} {
		if got, ok := PeakTFLOPS(c.name, c.precision); got != c.want || ok != (c.want != 0) {
			t.Errorf("PeakTFLOPS(%q, %q) = %g, %v, want %g", c.name, c.precision, got, ok, c.want)
		}
	}
}

// TestPeaksAddUp computes the table from what the cards are made of:
// multiprocessors, boost clock in GHz, and operations that one does a clock.
func TestPeaksAddUp(t *testing.T) {
	for _, c := range []struct {
		name              string
		sms, clock        float64 // of the tensor cores
		cudaClock         float64
		fp32, tf32, dense float64
	}{
		{"A100-SXM4-80GB", 108, 1.41, 1.41, 128, 1024, 2048},
		{"H100 80GB HBM3", 132, 1.83, 1.98, 256, 2048, 4096},
		{"H100 PCIe", 114, 1.62, 1.755, 256, 2048, 4096},
		{"H200", 132, 1.83, 1.98, 256, 2048, 4096},
		{"L40S", 142, 2.52, 2.52, 256, 512, 1024},
		{"GeForce RTX 4090", 128, 2.52, 2.52, 256, 256, 512},
		{"GeForce RTX 3090", 82, 1.695, 1.695, 256, 256, 512},
		{"RTX 6000 Ada Generation", 142, 2.505, 2.505, 256, 512, 1024},
	} {
		for precision, want := range map[string]float64{
			"fp32": c.sms * c.cudaClock * c.fp32 / 1e3, "tf32": c.sms * c.clock * c.tf32 / 1e3,
			"bf16": c.sms * c.clock * c.dense / 1e3,
		} {
			// The L40S's datasheet is 1.2 % below its boost clock.
			if got, ok := PeakTFLOPS(c.name, precision); !ok || math.Abs(got/want-1) > 0.015 {
				t.Errorf("%s, %s: %g, computed %.1f", c.name, precision, got, want)
			}
		}
	}
}
