package torch

// #include "dt.h"
import "C"

// A DType is the type of a tensor's elements.
type DType int32

// The element types of the binding.
const (
	Float32  DType = C.DT_FLOAT32
	Float64  DType = C.DT_FLOAT64
	Float16  DType = C.DT_FLOAT16
	BFloat16 DType = C.DT_BFLOAT16
	Int64    DType = C.DT_INT64
	Int32    DType = C.DT_INT32
	Uint8    DType = C.DT_UINT8
	Bool     DType = C.DT_BOOL
)

var dtypes = [...]struct {
	name string
	size int
}{{"float32", 4}, {"float64", 8}, {"float16", 2}, {"bfloat16", 2}, {"int64", 8}, {"int32", 4}, {"uint8", 1},
	{"bool", 1}}

// String returns PyTorch's name of the type.
func (d DType) String() string {
	if d < 0 || int(d) >= len(dtypes) {
		return "unknown dtype"
	}
	return dtypes[d].name
}

// Size returns the bytes of one element. It panics where d is none of the types above, as an index out of range does.
func (d DType) Size() int { return dtypes[d].size }

// Element is the Go types that [From] and [Data] convert.
type Element interface {
	float32 | float64 | int64 | int32 | uint8
}

func dtypeOf[T Element]() DType {
	var z T
	switch any(z).(type) {
	case float32:
		return Float32
	case float64:
		return Float64
	case int64:
		return Int64
	case int32:
		return Int32
	}
	return Uint8
}
