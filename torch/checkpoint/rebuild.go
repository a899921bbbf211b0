package checkpoint

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ditrun/ditrun/torch/checkpoint/internal/pickle"
)

// storageTypes are PyTorch's storage classes and their element types.
var storageTypes = map[string]DType{
	"DoubleStorage": F64, "FloatStorage": F32, "HalfStorage": F16, "BFloat16Storage": BF16,
	"LongStorage": I64, "IntStorage": I32, "ShortStorage": I16, "CharStorage": I8, "ByteStorage": U8,
	"BoolStorage": Bool, "ComplexFloatStorage": "C64", "UntypedStorage": "",
}

// torchTypes are the dtypes that a tensor on an untyped storage may name.
var torchTypes = map[string]DType{
	"float64": F64, "double": F64, "float32": F32, "float": F32, "float16": F16, "half": F16, "bfloat16": BF16,
	"int64": I64, "long": I64, "int32": I32, "int": I32, "int16": I16, "short": I16, "int8": I8,
	"uint8": U8, "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": Bool,
	"complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
	"float8_e5m2fnuz": "F8_E5M2FNUZ",
}

// callTorch carries out the few calls of PyTorch that weight files make.
func callTorch(name string, args pickle.Tuple) (v any, known bool, err error) {
	switch name {
	case "torch.Size":
		v, err = pickle.Sequence(args)
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2":
		v, err = rebuild(args, "")
	case "torch._utils._rebuild_tensor_v3":
		v, err = rebuildTyped(args)
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		err = errors.New("want a tensor")
		if len(args) > 0 {
			if t, ok := args[0].(*strided); ok {
				v, err = t, nil
			}
		}
	default:
		if !strings.HasPrefix(name, "torch._utils.") && !strings.HasPrefix(name, "torch._tensor.") {
			return nil, false, nil
		}
		err = errors.New("tensors of this kind are not supported: save plain dense ones")
	}
	return v, true, err
}

// rebuildTyped makes a tensor of (storage, offset, size, stride, requires_grad, hooks, dtype).
func rebuildTyped(args pickle.Tuple) (*strided, error) {
	if len(args) < 7 {
		return nil, fmt.Errorf("%d arguments, want 7", len(args))
	}
	g, _ := args[6].(pickle.Global)
	kind, _ := strings.CutPrefix(string(g), "torch.")
	dtype := torchTypes[kind]
	if dtype == "" {
		return nil, fmt.Errorf("elements of type %s are not supported", pickle.KindOf(args[6]))
	}
	return rebuild(args, dtype)
}

// rebuild makes a tensor of (storage, offset, size, stride, ...).
func rebuild(args pickle.Tuple, dtype DType) (*strided, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("%d arguments, want at least 4", len(args))
	}
	st, ok := args[0].(*storage)
	if !ok {
		return nil, fmt.Errorf("a tensor on a %s, want a storage", pickle.KindOf(args[0]))
	}
	if dtype == "" {
		if dtype = st.dtype; dtype == "" {
			return nil, errors.New("a tensor on an untyped storage")
		}
	}
	t := &strided{storage: st, dtype: dtype}
	var err error
	if t.offset, ok = args[1].(int64); !ok || t.offset < 0 {
		return nil, errors.New("the offset is no number from 0 up")
	}
	if t.shape, err = dimensions(args[2]); err != nil {
		return nil, fmt.Errorf("shape: %w", err)
	}
	if t.strides, err = dimensions(args[3]); err != nil {
		return nil, fmt.Errorf("strides: %w", err)
	}
	if len(t.shape) != len(t.strides) {
		return nil, fmt.Errorf("%d strides for shape %v", len(t.strides), t.shape)
	}
	return t, t.check()
}

func dimensions(v any) ([]int64, error) {
	items, ok := v.(pickle.Tuple)
	if !ok {
		return nil, fmt.Errorf("a %s, want a tuple", pickle.KindOf(v))
	}
	if len(items) > maxRank {
		return nil, fmt.Errorf("%d dimensions, at most %d", len(items), maxRank)
	}
	out := make([]int64, len(items))
	for i, item := range items {
		d, ok := item.(int64)
		if !ok || d < 0 {
			return nil, fmt.Errorf("a %s of %v, want a number from 0 up", pickle.KindOf(item), item)
		}
		out[i] = d
	}
	return out, nil
}
