package machine

import "strings"

// A Device is a GPU that a run can be planned for without having it.
type Device struct {
	Name        string  // as users write it
	CUDAName    string  // as CUDA names it, for [PeakTFLOPS]; "" for one of others
	MemoryBytes int64   // of one
	Watts       float64 // of one, at most, by its data sheet
	// Source says what was measured on it: DiT-XL/2 in bf16, with this program; "" for nothing.
	Source string
	// TFLOPS is what it reached in all in the paper, of one that is no GPU and whose memory is in many parts; else 0.
	TFLOPS float64
}

// share is the part of its peak that an H200 reached, training DiT-XL/2 in bf16: what is taken of others as well.
const share = 0.308

// paperTPU is where the speed of the TPUs is from.
const paperTPU = "the DiT paper: 5.7 steps a second of DiT-XL/2 with 256 pictures, on 256 cores"

// devices are those that plans name. On the H200 an earlier version of this program trained DiT-XL/2 at batch 64 in
// bf16 at 428 pictures a second, 30.8 % of the peak. The paper (section 4) gives 5.7 steps of 256 a second on 256 cores
// of TPU v3: with 3 x 2 x 118.64e9 operations a picture 1,039 TFLOP/s.
var devices = []Device{
	{Name: "H200", CUDAName: "H200", MemoryBytes: 141e9, Watts: 700,
		Source: "measured with an earlier version: DiT-XL/2, 64 pictures, bf16, 428 a second"},
	{Name: "H100", CUDAName: "H100 80GB HBM3", MemoryBytes: 80e9, Watts: 700},
	{Name: "A100", CUDAName: "A100-SXM4-80GB", MemoryBytes: 80e9, Watts: 400},
	{Name: "L40S", CUDAName: "L40S", MemoryBytes: 48e9, Watts: 350},
	{Name: "RTX-4090", CUDAName: "GeForce RTX 4090", MemoryBytes: 24e9, Watts: 450},
	{Name: "RTX-3090", CUDAName: "GeForce RTX 3090", MemoryBytes: 24e9, Watts: 350},
	{Name: "TPUv3-256", TFLOPS: 1039},
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
	return share * peak, ok
}

// Said says where [Device.Reached] is from, for a model and a precision.
func (d Device) Said(model, precision string) string {
	switch {
	case d.TFLOPS > 0:
		return paperTPU
	case d.Source != "" && model == "DiT-XL/2" && precision == "bf16":
		return d.Source
	}
	return "not measured: the share of the peak that an H200 reached with DiT-XL/2 in bf16"
}
