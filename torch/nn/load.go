package nn

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A Source is where weights come from; *checkpoint.File is one.
type Source interface {
	Tensors() []checkpoint.Info
	Lookup(name string) (checkpoint.Info, bool)
	Read(name string) ([]byte, error)
}

var dtypes = map[checkpoint.DType]torch.DType{
	"F32": torch.Float32, "F64": torch.Float64, "F16": torch.Float16, "BF16": torch.BFloat16, "I64": torch.Int64, "I32": torch.Int32, "U8": torch.Uint8, "BOOL": torch.Bool,
}

// DType returns the type of the binding that a checkpoint's type is, false where there is none.
func DType(d checkpoint.DType) (torch.DType, bool) {
	dt, ok := dtypes[d]
	return dt, ok
}

// Load copies the tensors of src into the parameters of m by name, converting the type. All missing,
// mis-shaped and, unless ignoreExtra is set, unexpected names are reported in one error, and nothing
// is changed then.
func Load(s *torch.Scope, m any, src Source, ignoreExtra bool) error {
	return LoadParams(s, List(m), src, ignoreExtra)
}

// LoadParams is [Load] for named tensors.
func LoadParams(s *torch.Scope, params []Param, src Source, ignoreExtra bool) error {
	var missing, wrong, extra []string
	known := map[string]bool{}
	for _, p := range params {
		known[p.Name] = true
		info, ok := src.Lookup(p.Name)
		if !ok {
			missing = append(missing, p.Name)
			continue
		}
		if _, ok := dtypes[info.DType]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s (dtype %s cannot be a weight)", p.Name, info.DType))
		} else if !sameShape(info.Shape, p.Tensor.Shape()) {
			wrong = append(wrong, fmt.Sprintf("%s (have %v, want %v)", p.Name, info.Shape, p.Tensor.Shape()))
		}
	}
	for _, info := range src.Tensors() {
		if !known[info.Name] {
			extra = append(extra, info.Name)
		}
	}
	if ignoreExtra {
		extra = nil
	}
	if err := mismatch(missing, wrong, extra); err != nil {
		return err
	}
	for _, p := range params {
		info, _ := src.Lookup(p.Name)
		data, err := src.Read(p.Name)
		if err != nil {
			return err
		}
		err = s.NoGrad().Try(func(s *torch.Scope) error {
			s.Copy_(p.Tensor, s.FromBytes(dtypes[info.DType], data, p.Tensor.Shape()...))
			return nil
		})
		if err != nil {
			return fmt.Errorf("tensor %q: %w", p.Name, err)
		}
	}
	return nil
}

func mismatch(missing, wrong, extra []string) error {
	var parts []string
	for _, g := range []struct {
		what  string
		names []string
	}{{"missing", missing}, {"of another shape or type", wrong}, {"unexpected", extra}} {
		if len(g.names) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", len(g.names), g.what, abridge(g.names)))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return errors.New("weights do not fit the model: " + strings.Join(parts, "; "))
}

// abridge lists names; a wrong file has hundreds of them, of which the first ones tell enough.
func abridge(names []string) string {
	const most = 12
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func sameShape(a []int64, b []int) bool {
	return slices.EqualFunc(a, b, func(x int64, y int) bool { return x == int64(y) })
}

// State copies the parameters of m to host memory in the form that checkpoint.Write takes.
func State(m any) []checkpoint.Tensor { return Snapshot(List(m)) }

// Snapshot copies named tensors to host memory in the form that checkpoint.Write takes. They must be
// of a type that a checkpoint can hold.
func Snapshot(params []Param) []checkpoint.Tensor {
	var out []checkpoint.Tensor
	for _, p := range params {
		shape := []int64{}
		for _, d := range p.Tensor.Shape() {
			shape = append(shape, int64(d))
		}
		out = append(out, checkpoint.Tensor{Info: checkpoint.Info{Name: p.Name, DType: dtypeName(p.Tensor.DType()), Shape: shape}, Data: p.Tensor.Bytes()})
	}
	return out
}

func dtypeName(d torch.DType) checkpoint.DType {
	for name, t := range dtypes {
		if t == d {
			return name
		}
	}
	panic(fmt.Sprintf("nn: no checkpoint type for %v", d))
}
