package machine

import "strings"

// A Device is a GPU that a run can be planned for without having it.
type Device struct {
	Name        string  // as users write it
	CUDAName    string  // as CUDA names it, for [PeakTFLOPS]; "" for one of others
	MemoryBytes int64   // of one
	Watts       float64 // of one, at most, by its data sheet
	// Share is the part of the peak that training DiT-XL/2 reached in bf16, and Source where that is from.
	Share  float64
	Source string
	// Measured says that this program was measured on it.
	Measured bool
	// TFLOPS is what it reached in all, for one that is no GPU; else 0.
	TFLOPS float64
}

const notMeasured = "not measured: the share of the peak that an H200 reached"

// devices are those that plans name. On the H200 an earlier version of this program trained DiT-XL/2 at batch 64 in
// bf16 at 428 pictures a second, 30.8 % of the peak. The paper (section 4) gives 5.7 steps of 256 a second on 256 cores
// of TPU v3: with 3 x 2 x 118.64e9 operations a picture 1,039 TFLOP/s.
var devices = []Device{
	{Name: "H200", CUDAName: "H200", MemoryBytes: 141e9, Watts: 700, Share: 0.308, Measured: true,
		Source: "measured with an earlier version: DiT-XL/2, 64 pictures, bf16, 428 a second"},
	{Name: "H100", CUDAName: "H100 80GB HBM3", MemoryBytes: 80e9, Watts: 700, Share: 0.308, Source: notMeasured},
	{Name: "A100", CUDAName: "A100-SXM4-80GB", MemoryBytes: 80e9, Watts: 400, Share: 0.308, Source: notMeasured},
	{Name: "L40S", CUDAName: "L40S", MemoryBytes: 48e9, Watts: 350, Share: 0.308, Source: notMeasured},
	{Name: "RTX-4090", CUDAName: "GeForce RTX 4090", MemoryBytes: 24e9, Watts: 450, Share: 0.308, Source: notMeasured},
	{Name: "RTX-3090", CUDAName: "GeForce RTX 3090", MemoryBytes: 24e9, Watts: 350, Share: 0.308, Source: notMeasured},
	{Name: "TPUv3-256", MemoryBytes: 256 * 16e9, TFLOPS: 1039,
		Source: "the DiT paper: 5.7 steps a second of DiT-XL/2 with 256 pictures, on 256 cores"},
}

// Devices returns the names of those that [DeviceNamed] knows.
func Devices() (names []string) {
	for _, d := range devices {
		names = append(names, d.Name)
	}
	return names
}

// DeviceNamed returns the device with a name, whatever its letters' case; false for none.
func DeviceNamed(name string) (Device, bool) {
	for _, d := range devices {
		if strings.EqualFold(d.Name, name) {
			return d, true
		}
	}
	return Device{}, false
}

// Reached returns the 10^12 operations a second that training reaches in a precision; false where the peak is not
// known.
func (d Device) Reached(precision string) (float64, bool) {
	if d.TFLOPS > 0 {
		return d.TFLOPS, true
	}
	peak, ok := PeakTFLOPS(d.CUDAName, precision)
	return d.Share * peak, ok
}
