package nn_test

import (
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

func TestPrecision(t *testing.T) {
	gpu := torch.CUDA(0) // named, not used
	for _, c := range []struct {
		given        nn.Precision
		onCPU, onGPU nn.Precision
		dtype        torch.DType // on the CPU
	}{
		{"", nn.FP32, nn.TF32, torch.Float32},
		{nn.FP32, nn.FP32, nn.FP32, torch.Float32},
		{nn.TF32, nn.TF32, nn.TF32, torch.Float32},
		{nn.BF16, nn.BF16, nn.BF16, torch.BFloat16},
		{nn.FP16, nn.FP16, nn.FP16, torch.Float16},
	} {
		onCPU, onGPU := c.given.On(torch.CPU), c.given.On(gpu)
		if onCPU != c.onCPU || onGPU != c.onGPU || onCPU.DType() != c.dtype {
			t.Errorf("%q: %s on a CPU, %s on a GPU, %v", c.given, onCPU, onGPU, onCPU.DType())
		}
	}
	for _, c := range []struct {
		given nn.Precision
		more  []nn.Precision
		want  string
	}{
		{nn.FP32, nil, ""}, {nn.TF32, nil, ""}, {nn.BF16, nil, ""}, {nn.FP16, []nn.Precision{nn.FP16}, ""},
		{nn.FP16, nil, `precision "fp16": want fp32, tf32 or bf16`},
		{"", nil, `precision "": want fp32, tf32 or bf16`},
		{"int4", []nn.Precision{nn.FP16}, `precision "int4": want fp32, tf32, bf16 or fp16`},
	} {
		got := ""
		if err := c.given.Validate(c.more...); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q: error %q, want %q", c.given, got, c.want)
		}
	}
}
