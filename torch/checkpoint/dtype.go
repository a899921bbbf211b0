package checkpoint

import (
	"encoding/binary"
	"math"
	"slices"
)

// DType is an element type under its safetensors name, for example "F32".
type DType string

// The element types the project itself reads and writes. The format knows more
// (8-bit and smaller floats, C64, unsigned integers); files holding them open
// and read back as bytes.
const (
	Bool DType = "BOOL"
	U8   DType = "U8"
	I8   DType = "I8"
	I16  DType = "I16"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I32  DType = "I32"
	F32  DType = "F32"
	F64  DType = "F64"
	I64  DType = "I64"
)

// dtypes lists every type of the format with its width in bits. The order is
// the reference implementation's enum order, which its writer sorts by.
var dtypes = []struct {
	name DType
	bits int
}{
	{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8},
	{"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16},
	{"BF16", 16},
	{"I32", 32}, {"U32", 32}, {"F32", 32}, {"C64", 64}, {"F64", 64}, {"I64", 64}, {"U64", 64},
}

// rank is the position of d in the reference enum, -1 for an unknown type.
func (d DType) rank() int {
	for i := range dtypes {
		if dtypes[i].name == d {
			return i
		}
	}
	return -1
}

// Bits is the width of one element in bits, 0 for an unknown type.
func (d DType) Bits() int {
	if i := d.rank(); i >= 0 {
		return dtypes[i].bits
	}
	return 0
}

// Size is the width of one element in bytes, 0 for an unknown type and for the
// packed types of less than a byte (F4, F6_E2M3, F6_E3M2).
func (d DType) Size() int { return d.Bits() / 8 }

// EncodeFloats returns values as little-endian elements of a float type, rounded to nearest, ties to even;
// nil for other types.
func EncodeFloats(values []float32, d DType) []byte {
	le := binary.LittleEndian
	p := make([]byte, 0, len(values)*d.Size())
	for _, v := range values {
		switch b := math.Float32bits(v); d {
		case F32:
			p = le.AppendUint32(p, b)
		case F64:
			p = le.AppendUint64(p, math.Float64bits(float64(v)))
		case BF16:
			p = le.AppendUint16(p, uint16((b+0x7fff+b>>16&1)>>16)) // NaN does not occur in weights that a program makes
		case F16:
			p = le.AppendUint16(p, Float16(v))
		default:
			return nil
		}
	}
	return p
}

// decodeFloats is the inverse of EncodeFloats; values of F64 are rounded. It returns nil for other types.
func decodeFloats(b []byte, d DType) []float32 {
	le := binary.LittleEndian
	size := d.Size()
	if !slices.Contains([]DType{F32, F64, BF16, F16}, d) {
		return nil
	}
	values := make([]float32, len(b)/size)
	for i := range values {
		switch p := b[i*size:]; d {
		case F32:
			values[i] = math.Float32frombits(le.Uint32(p))
		case F64:
			values[i] = float32(math.Float64frombits(le.Uint64(p)))
		case BF16:
			values[i] = math.Float32frombits(uint32(le.Uint16(p)) << 16)
		case F16:
			values[i] = FromFloat16(le.Uint16(p))
		}
	}
	return values
}
