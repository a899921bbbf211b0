package checkpoint

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// A storage is a run of elements in the file that tensors are views of.
type storage struct {
	key     string
	dtype   DType // "" where the tensors say it (untyped)
	size    int64 // bytes
	offset  int64 // in the file; -1 until known
	counted bool  // size is known, in a legacy file
	base    *storage
	shift   int64 // bytes into base, for a view in a legacy file
}

// A pickleTensor is a view of a storage as the file describes it.
type pickleTensor struct {
	storage        *storage
	dtype          DType
	offset         int64 // elements
	shape, strides []int64
}

type pickleNamespace struct{ dict *pickleDict }

// storageTypes are PyTorch's storage classes and their element types.
var storageTypes = map[string]DType{
	"DoubleStorage": F64, "FloatStorage": F32, "HalfStorage": F16, "BFloat16Storage": BF16, "LongStorage": I64,
	"IntStorage":   I32,
	"ShortStorage": I16, "CharStorage": I8, "ByteStorage": U8, "BoolStorage": Bool, "ComplexFloatStorage": "C64",
	"UntypedStorage": "",
}

// torchTypes are the dtypes that a tensor on an untyped storage may name.
var torchTypes = map[string]DType{
	"float64": F64, "double": F64, "float32": F32, "float": F32, "float16": F16, "half": F16, "bfloat16": BF16,
	"int64": I64, "long": I64,
	"int32": I32, "int": I32, "int16": I16, "short": I16, "int8": I8, "uint8": U8, "bool": Bool, "uint16": "U16",
	"uint32": "U32", "uint64": "U64",
	"complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
	"float8_e5m2fnuz": "F8_E5M2FNUZ",
}

// callGlobal carries out the few calls that weight files make. What it does not know becomes an object
// without content, unless it would be a tensor.
func (u *unpickler) callGlobal(name string, args pickleTuple) (any, error) {
	switch name {
	case "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict",
		"__builtin__.dict":
		return u.newDict(args)
	case "argparse.Namespace":
		return &pickleNamespace{&pickleDict{}}, nil
	case "copyreg._reconstructor", "copy_reg._reconstructor":
		if len(args) > 0 && args[0] == pickleGlobal("argparse.Namespace") {
			return &pickleNamespace{&pickleDict{}}, nil
		}
		return pickleOpaque{name}, nil
	case "torch.Size", "builtins.set", "__builtin__.set":
		if len(args) == 1 {
			switch v := args[0].(type) {
			case pickleTuple:
				return v, nil
			case *pickleList:
				return v, nil
			}
		}
		return nil, errors.New("want one tuple or list")
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2":
		return rebuild(args, "")
	case "torch._utils._rebuild_tensor_v3":
		if len(args) < 7 {
			return nil, fmt.Errorf("%d arguments, want 7", len(args))
		}
		g, _ := args[6].(pickleGlobal)
		kind, _ := strings.CutPrefix(string(g), "torch.")
		dtype := torchTypes[kind]
		if dtype == "" {
			return nil, fmt.Errorf("elements of type %s are not supported", kindOf(args[6]))
		}
		return rebuild(args, dtype)
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		if len(args) > 0 {
			if t, ok := args[0].(*pickleTensor); ok {
				return t, nil
			}
		}
		return nil, errors.New("want a tensor")
	}
	if strings.HasPrefix(name, "torch._utils.") || strings.HasPrefix(name, "torch._tensor.") {
		return nil, errors.New("tensors of this kind are not supported: save plain dense ones")
	}
	return pickleOpaque{name}, nil
}

func (u *unpickler) newDict(args pickleTuple) (*pickleDict, error) {
	d := &pickleDict{}
	if len(args) == 0 {
		return d, nil
	}
	var pairs []any
	switch v := args[len(args)-1].(type) { // of defaultdict the first is the factory
	case *pickleList:
		pairs = v.items
	case pickleTuple:
		pairs = v
	case *pickleDict:
		return v, nil
	case pickleGlobal:
		return d, nil
	default:
		return nil, fmt.Errorf("a dict of a %s", kindOf(v))
	}
	// The list can be short in the file and be copied again and again.
	if u.objects += 2 * len(pairs); u.objects > maxObjects {
		return nil, errors.New("too many objects")
	}
	for _, p := range pairs {
		var kv []any
		switch p := p.(type) {
		case pickleTuple:
			kv = p
		case *pickleList:
			kv = p.items
		}
		if len(kv) != 2 {
			return nil, errors.New("a pair that is none")
		}
		if err := d.set(kv[0], kv[1]); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// rebuild makes a tensor of (storage, offset, size, stride, ...).
func rebuild(args pickleTuple, dtype DType) (*pickleTensor, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("%d arguments, want at least 4", len(args))
	}
	st, ok := args[0].(*storage)
	if !ok {
		return nil, fmt.Errorf("a tensor on a %s, want a storage", kindOf(args[0]))
	}
	if dtype == "" {
		if dtype = st.dtype; dtype == "" {
			return nil, errors.New("a tensor on an untyped storage")
		}
	}
	t := &pickleTensor{storage: st, dtype: dtype}
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
	items, ok := v.(pickleTuple)
	if !ok {
		return nil, fmt.Errorf("a %s, want a tuple", kindOf(v))
	}
	if len(items) > maxRank {
		return nil, fmt.Errorf("%d dimensions, at most %d", len(items), maxRank)
	}
	out := make([]int64, len(items))
	for i, item := range items {
		d, ok := item.(int64)
		if !ok || d < 0 {
			return nil, fmt.Errorf("a %s of %v, want a number from 0 up", kindOf(item), item)
		}
		out[i] = d
	}
	return out, nil
}

// check holds the view against its storage: every element lies inside it.
func (t *pickleTensor) check() error {
	if _, err := byteSize(t.dtype, t.shape); err != nil {
		return err
	}
	last := uint64(t.offset)
	for i, d := range t.shape {
		if d == 0 {
			return nil
		}
		hi, lo := bits.Mul64(uint64(d-1), uint64(t.strides[i]))
		sum, carry := bits.Add64(last, lo, 0)
		if hi != 0 || carry != 0 {
			return fmt.Errorf("shape %v with strides %v overflows", t.shape, t.strides)
		}
		last = sum
	}
	if have := uint64(t.storage.size / int64(t.dtype.Size())); last >= have {
		return fmt.Errorf("shape %v with strides %v from element %d on reaches element %d, the storage has %d", t.shape,
			t.strides, t.offset, last, have)
	}
	return nil
}

// contiguous reports whether the elements lie in C order without gaps.
func (t *pickleTensor) contiguous() bool {
	want := int64(1)
	for i := len(t.shape) - 1; i >= 0; i-- {
		if t.shape[i] != 1 && t.strides[i] != want {
			return false
		}
		want *= max(t.shape[i], 1)
	}
	return true
}

// place is where the first element lies in the file.
func (t *pickleTensor) place() int64 {
	at := t.offset * int64(t.dtype.Size())
	st := t.storage
	if st.base != nil {
		at += st.shift
		st = st.base
	}
	return st.offset + at
}

// Elements that are asked for together are read in one piece of the storage if it is not more than
// this many bytes, or this many times what was asked for.
const (
	maxGather      = 16 << 20
	maxGatherTimes = 64
)

// gather fills p with the bytes from off on of a tensor that is not contiguous. read reads the file.
func (t *pickleTensor) gather(p []byte, off int64, read func(p []byte, at int64) error) error {
	size := int64(t.dtype.Size())
	if len(p) == 0 {
		return nil
	}
	first, last := off/size, (off+int64(len(p))-1)/size
	// Outer dimensions on which all asked-for elements agree are fixed, so that a few rows of a large
	// tensor cost a few rows.
	lo, hi := t.span(first, last)
	// The halves of a wide range lie closer together; a single element is no wider than itself.
	if piece := (hi - lo + 1) * size; first < last && piece > maxGather && piece/maxGatherTimes > int64(len(p)) {
		cut := (first+(last-first+1)/2)*size - off
		if err := t.gather(p[:cut], off, read); err != nil {
			return err
		}
		return t.gather(p[cut:], off+cut, read)
	}
	data := make([]byte, (hi-lo+1)*size)
	if err := read(data, t.place()+lo*size); err != nil {
		return err
	}
	var el [16]byte
	index := make([]int64, len(t.shape))
	rest, at := first, int64(0)
	for i := len(t.shape) - 1; i >= 0; i-- {
		index[i] = rest % t.shape[i]
		rest /= t.shape[i]
		at += index[i] * t.strides[i]
	}
	skip := off - first*size
	for len(p) > 0 {
		copy(el[:size], data[(at-lo)*size:])
		n := copy(p, el[skip:size])
		p, skip = p[n:], 0
		for i := len(t.shape) - 1; i >= 0; i-- {
			if index[i]++; index[i] < t.shape[i] {
				at += t.strides[i]
				break
			}
			at -= t.strides[i] * (t.shape[i] - 1)
			index[i] = 0
		}
	}
	return nil
}

// span returns the smallest and largest place, in elements after the first of the tensor, that elements
// first to last of it in C order can have.
func (t *pickleTensor) span(first, last int64) (lo, hi int64) {
	width := int64(1)
	for _, d := range t.shape {
		width *= d
	}
	for i, d := range t.shape {
		width /= d
		a, b := first/width, last/width
		if a != b {
			lo += a * t.strides[i]
			hi += b * t.strides[i]
			for j := i + 1; j < len(t.shape); j++ {
				hi += (t.shape[j] - 1) * t.strides[j]
			}
			return lo, hi
		}
		lo += a * t.strides[i]
		hi += a * t.strides[i]
		first, last = first%width, last%width
	}
	return lo, hi
}
