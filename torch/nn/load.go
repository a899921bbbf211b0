package nn

import (
	"fmt"
	"slices"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

var dtypes = map[checkpoint.DType]torch.DType{
	"F32": torch.Float32, "F64": torch.Float64, "F16": torch.Float16, "BF16": torch.BFloat16, "I64": torch.Int64,
	"I32": torch.Int32, "U8": torch.Uint8, "BOOL": torch.Bool,
}

// DType returns the type of the binding that a checkpoint's type is, false where there is none.
func DType(d checkpoint.DType) (torch.DType, bool) {
	dt, ok := dtypes[d]
	return dt, ok
}

// Load copies the tensors of src into the parameters of m by name, converting the type. All missing,
// mis-shaped and, unless ignoreExtra is set, unexpected names are reported in one error, and nothing
// is changed then. A file whose contents have changed since it was written (see [checkpoint.File.Verify]) is
// an error too, which comes last: the parameters are of no use then.
func Load(s *torch.Scope, m any, src checkpoint.Source, ignoreExtra bool) error {
	return LoadParams(s, List(m), src, ignoreExtra)
}

// LoadParams is [Load] for named tensors.
func LoadParams(s *torch.Scope, params []Param, src checkpoint.Source, ignoreExtra bool) error {
	var wrong checkpoint.Mismatch
	wanted := map[string]bool{}
	for _, p := range params {
		wanted[p.Name] = true
		info, ok := src.Lookup(p.Name)
		if !ok {
			wrong.Missing = append(wrong.Missing, p.Name)
			continue
		}
		if _, ok := dtypes[info.DType]; !ok {
			wrong.Wrong = append(wrong.Wrong, fmt.Sprintf("%s (dtype %s cannot be a weight)", p.Name, info.DType))
		} else if !sameShape(info.Shape, p.Tensor.Shape()) {
			wrong.Wrong = append(wrong.Wrong,
				fmt.Sprintf("%s (have %v, want %v)", p.Name, info.Shape, p.Tensor.Shape()))
		}
	}
	for _, info := range src.Tensors() {
		if !ignoreExtra && !wanted[info.Name] {
			wrong.Unexpected = append(wrong.Unexpected, info.Name)
		}
	}
	if err := wrong.Err(); err != nil {
		return err
	}
	for _, p := range params {
		info, _ := src.Lookup(p.Name)
		read := func(b []byte, off int64) error { return src.ReadAt(b, p.Name, off) }
		err := s.NoGrad().Try(func(s *torch.Scope) error {
			if dt := dtypes[info.DType]; dt != p.Tensor.DType() {
				loaded := s.Zeros(dt, p.Tensor.Shape()...)
				if err := loaded.Fill(read); err != nil {
					return err
				}
				s.Copy_(p.Tensor, loaded)
				return nil
			}
			return p.Tensor.Fill(read)
		})
		if err != nil {
			return fmt.Errorf("tensor %q: %w", p.Name, err)
		}
	}
	return src.Verify()
}

func sameShape(a []int64, b []int) bool {
	return slices.EqualFunc(a, b, func(x int64, y int) bool { return x == int64(y) })
}

// State copies the parameters of m to host memory in the form that checkpoint.Write takes. It panics as
// [Snapshot] does.
func State(m any) []checkpoint.Tensor { return Snapshot(List(m)) }

// Snapshot copies named tensors to host memory in the form that checkpoint.Write takes. It panics with a
// *torch.Error where a tensor is closed or cannot be read from its device.
func Snapshot(params []Param) []checkpoint.Tensor {
	var out []checkpoint.Tensor
	for _, p := range params {
		info := checkpoint.Info{Name: p.Name, DType: dtypeName(p.Tensor.DType()), Shape: Shape(p.Tensor)}
		out = append(out, checkpoint.Tensor{Info: info, Data: p.Tensor.Bytes()})
	}
	return out
}

// Shape is the shape of t as checkpoints have it.
func Shape(t *torch.Tensor) []int64 {
	shape := make([]int64, t.Rank())
	for i, d := range t.Shape() {
		shape[i] = int64(d)
	}
	return shape
}

func dtypeName(d torch.DType) checkpoint.DType {
	for name, t := range dtypes {
		if t == d {
			return name
		}
	}
	panic(fmt.Sprintf("nn: no checkpoint type for %v", d))
}
