package nn

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/torch"
)

// A Precision is the arithmetic of a model, in the word that flags, options and files have for it.
type Precision string

// What matrix products and convolutions compute in. TF32 is FP32 whose products on CUDA round what they take, see
// [torch.Scope.TF32]. FP16 overflows above 65504: only encoding, which then encodes again, has it.
const (
	FP32 Precision = "fp32"
	TF32 Precision = "tf32"
	BF16 Precision = "bf16"
	FP16 Precision = "fp16"
)

// Validate returns an error unless p is FP32, TF32, BF16 or one of more: `precision "int4": want fp32, tf32 or bf16`.
func (p Precision) Validate(more ...Precision) error {
	allowed := append([]Precision{FP32, TF32, BF16}, more...)
	if slices.Contains(allowed, p) {
		return nil
	}
	var words []string
	for _, a := range allowed {
		words = append(words, string(a))
	}
	last := len(words) - 1
	return fmt.Errorf("precision %q: want %s or %s", string(p), strings.Join(words[:last], ", "), words[last])
}

// On returns p, and for "" the default of a device: TF32 on CUDA, which the original's sample.py allows too, else FP32.
func (p Precision) On(dev torch.Device) Precision {
	switch {
	case p != "":
		return p
	case dev.IsCUDA():
		return TF32
	}
	return FP32
}

// DType returns the type of the weights of matrix products and convolutions, and of what they take.
func (p Precision) DType() torch.DType {
	switch p {
	case BF16:
		return torch.BFloat16
	case FP16:
		return torch.Float16
	}
	return torch.Float32
}

// Scope returns a view of s in which Float32 products are those of p.
func (p Precision) Scope(s *torch.Scope) *torch.Scope { return s.TF32(p == TF32) }
