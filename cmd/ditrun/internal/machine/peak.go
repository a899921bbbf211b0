package machine

import "strings"

// peaks are NVIDIA's figures for matrix products of dense matrices, at boost
// clock and with sums in fp32, in 10^12 operations per second:
//
//   - A100: A100 datasheet (SXM and PCIe have the same peak).
//   - H100: H100 architecture white paper, v1.04, table 3; H200: its datasheet,
//     whose figures, with sparsity, are twice these.
//   - L40S: its datasheet.
//   - RTX 4090, RTX 3090, RTX 6000 Ada: Ada architecture white paper, v2.1,
//     appendix A, and GA102 white paper, v2, appendix A. GeForce cards halve
//     the rate of tensor cores that sum in fp32.
//
// The names are those that CUDA gives. They are whole: an "H100 NVL", an "RTX
// 3090 Ti", a laptop's GPU or a slice of a card (MIG) has another peak.
var peaks = []struct {
	names            []string // without "NVIDIA", which older drivers leave out
	fp32, tf32, bf16 float64
}{
	{[]string{"A100-SXM4-40GB", "A100-SXM4-80GB", "A100-PCIE-40GB", "A100 80GB PCIe"}, 19.5, 156, 312},
	{[]string{"H100 80GB HBM3"}, 66.9, 494.7, 989.4}, // SXM
	{[]string{"H100 PCIe"}, 51.2, 378, 756},
	{[]string{"H200"}, 66.9, 494.7, 989.4},
	{[]string{"L40S"}, 91.6, 183, 362},
	{[]string{"GeForce RTX 4090"}, 82.6, 82.6, 165.2},
	{[]string{"GeForce RTX 3090"}, 35.6, 35.6, 71},
	{[]string{"RTX 6000 Ada Generation"}, 91.1, 182.1, 364.2},
}

// PeakTFLOPS returns the most 10^12 floating point operations per second that
// the GPU with this name does in a precision, fp32, tf32 or bf16; false where
// that is not known.
func PeakTFLOPS(deviceName, precision string) (float64, bool) {
	name := strings.TrimPrefix(deviceName, "NVIDIA ")
	for _, p := range peaks {
		for _, n := range p.names {
			if n != name {
				continue
			}
			switch precision {
			case "fp32":
				return p.fp32, true
			case "tf32":
				return p.tf32, true
			case "bf16":
				return p.bf16, true
			}
		}
	}
	return 0, false
}
