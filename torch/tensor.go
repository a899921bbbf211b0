package torch

// #include "dt.h"
// #cgo noescape dt_from_host
// #cgo nocallback dt_from_host
// #cgo noescape dt_to_host
// #cgo nocallback dt_to_host
// #cgo noescape dt_copy_from_host
// #cgo nocallback dt_copy_from_host
// #cgo noescape dt_to_device
// #cgo nocallback dt_to_device
// #cgo noescape dt_address
// #cgo nocallback dt_address
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"
)

// A Tensor is a handle on a libtorch tensor. Its description is kept on the Go side, so asking for
// it costs no C call and is always possible. All else is possible until the tensor is closed: by the end
// of its scope, by [Scope.Release] or, where it is persistent, by [Tensor.Close].
type Tensor struct {
	h     C.dt_tensor
	a     *arena // nil where persistent
	slot  int    // in the arena
	net   runtime.Cleanup
	shape []int
	dtype DType
	dev   Device
	// In a capture, which of the tensors made there this is, from 1; else 0.
	number int
}

// Shape returns the sizes of the dimensions. The slice must not be changed.
func (t *Tensor) Shape() []int { return t.shape }

// Dim returns the size of dimension i; negative i counts from the end. It panics where there is no
// such dimension, as an index out of range does.
func (t *Tensor) Dim(i int) int {
	if i < 0 {
		i += len(t.shape)
	}
	return t.shape[i]
}

// Rank returns the number of dimensions.
func (t *Tensor) Rank() int { return len(t.shape) }

// NumElements returns the product of the dimensions.
func (t *Tensor) NumElements() int {
	n := 1
	for _, d := range t.shape {
		n *= d
	}
	return n
}

// DType returns the element type.
func (t *Tensor) DType() DType { return t.dtype }

// Device returns where the tensor lives.
func (t *Tensor) Device() Device { return t.dev }

// String describes the tensor without reading its values.
func (t *Tensor) String() string {
	if t == nil {
		return "nil tensor"
	}
	return fmt.Sprintf("%v %v on %v", t.dtype, t.shape, t.dev)
}

// RequiresGrad reports whether autograd tracks the tensor. It panics with an *Error where t is closed.
func (t *Tensor) RequiresGrad() bool {
	on := C.dt_requires_grad(t.handle("RequiresGrad")) != 0
	runtime.KeepAlive(t)
	return on
}

// SetRequiresGrad makes autograd track a leaf tensor, or stop doing so. It panics with an *Error where
// t is closed, is the result of an operation that autograd recorded, or holds integers.
func (t *Tensor) SetRequiresGrad(on bool) {
	check("SetRequiresGrad", C.dt_set_requires_grad(t.handle("SetRequiresGrad"), cbool(on)), t)
	if r := capturing(); r != nil {
		r.note("SetRequiresGrad", nil, t, on)
		if on && t.number > 0 {
			r.leaves = append(r.leaves, t)
		}
	}
	runtime.KeepAlive(t)
}

// From copies data into a new tensor of the given shape on the scope's device.
func From[T Element](s *Scope, data []T, shape ...int) *Tensor {
	var z T
	n := len(data) * int(unsafe.Sizeof(z))
	return s.fromHost("From", unsafe.Pointer(unsafe.SliceData(data)), n, dtypeOf[T](), shape)
}

// FromBytes copies little-endian elements of type dt into a new tensor on the scope's device.
func (s *Scope) FromBytes(dt DType, data []byte, shape ...int) *Tensor {
	return s.fromHost("FromBytes", unsafe.Pointer(unsafe.SliceData(data)), len(data), dt, shape)
}

func (s *Scope) fromHost(op string, p unsafe.Pointer, nbytes int, dt DType, shape []int) *Tensor {
	s.cmode()
	outsideCapture(op, uploads)
	dims, n := cdims(shape)
	var out C.dt_out
	check(op, C.dt_from_host(p, C.int64_t(nbytes), C.int32_t(dt), C.dt_device(s.dev.index), &dims[0], n, &out))
	return s.wrap(&out)
}

// Data copies the elements to Go memory. It panics with an *Error where t is closed, has another dtype
// than T, or cannot be read from its device.
func Data[T Element](t *Tensor) []T {
	t.handle("Data")
	if want := dtypeOf[T](); t.dtype != want {
		misuse("Data", "the tensor is %v, asked for %v", t.dtype, want)
	}
	out := make([]T, t.NumElements())
	t.read("Data", unsafe.Pointer(unsafe.SliceData(out)))
	return out
}

// Bytes copies the elements to Go memory as little-endian bytes in row-major order. It panics with an
// *Error where t is closed or cannot be read from its device.
func (t *Tensor) Bytes() []byte {
	t.handle("Bytes")
	out := make([]byte, t.NumElements()*t.dtype.Size())
	t.read("Bytes", unsafe.Pointer(unsafe.SliceData(out)))
	return out
}

func (t *Tensor) read(op string, p unsafe.Pointer) {
	outsideCapture(op, readsBack)
	check(op, C.dt_to_host(t.handle(op), p, C.int64_t(t.NumElements()*t.dtype.Size())), t)
	runtime.KeepAlive(t)
}

// Item returns the value of a tensor of one element. It waits for the device. It panics with an *Error
// where t is closed, has more elements or none, is Float16 or BFloat16, or cannot be read from its device.
func (t *Tensor) Item() float64 {
	t.handle("Item")
	outsideCapture("Item", readsBack)
	if t.NumElements() != 1 {
		misuse("Item", "want one element, the shape is %v", t.shape)
	}
	switch t.dtype {
	case Float32:
		return float64(Data[float32](t)[0])
	case Float64:
		return Data[float64](t)[0]
	case Int64:
		return float64(Data[int64](t)[0])
	case Int32:
		return float64(Data[int32](t)[0])
	case Uint8, Bool:
		return float64(t.Bytes()[0])
	}
	misuse("Item", "convert %v to float32 first", t.dtype)
	return 0
}

// CopyFromBytes overwrites the tensor with little-endian elements of its dtype, row-major. It panics with
// an *Error where t is closed, data has another length, or its device fails; [Tensor.Fill] returns errors.
func (t *Tensor) CopyFromBytes(data []byte) {
	outsideCapture("CopyFromBytes", uploads)
	check("CopyFromBytes", C.dt_copy_from_host(t.handle("CopyFromBytes"), unsafe.Pointer(unsafe.SliceData(data)),
		C.int64_t(len(data))), t)
	runtime.KeepAlive(t)
}

// Fill overwrites the tensor with little-endian elements of its dtype, row-major, from read, which fills p
// with the bytes from off on: once for the whole, or for one part after the other. On the CPU p is the
// tensor's own memory, which nothing else may read meanwhile; for a GPU, host memory holds one part at a
// time. Fill returns read's error, or an *Error where t is closed or its device fails. After an error the
// tensor holds anything.
func (t *Tensor) Fill(read func(p []byte, off int64) error) (err error) {
	defer recoverError(&err)
	h := t.handle("Fill")
	outsideCapture("Fill", uploads)
	size := t.NumElements() * t.dtype.Size()
	var p unsafe.Pointer
	check("Fill", C.dt_host_bytes(h, cbool(true), &p), t)
	if p != nil {
		err := read(unsafe.Slice((*byte)(p), size), 0)
		runtime.KeepAlive(t)
		return err
	}
	if size <= fillBytes {
		data := make([]byte, size)
		if err := read(data, 0); err != nil {
			return err
		}
		t.CopyFromBytes(data)
		return nil
	}
	rows := t.shape[0]
	row := size / rows
	data := make([]byte, row*min(rows, max(1, fillBytes/row)))
	for first := 0; first < rows; first += len(data) / row {
		data = data[:row*min(rows-first, len(data)/row)]
		if err := read(data, int64(row*first)); err != nil {
			return err
		}
		t.copyRows(first, data, len(data)/row)
	}
	return nil
}

// fillBytes is about how much host memory Fill takes for tensors on a GPU; one row may take more.
const fillBytes = 64 << 20

// copyRows overwrites n rows, which are what the first dimension counts, from row first on.
func (t *Tensor) copyRows(first int, data []byte, n int) {
	var part C.dt_out
	check("Fill", C.dt_narrow(0, t.handle("Fill"), 0, C.int64_t(first), C.int64_t(n), &part), t)
	defer C.dt_free_many(&part.t, 1)
	check("Fill", C.dt_copy_from_host(part.t, unsafe.Pointer(unsafe.SliceData(data)), C.int64_t(len(data))), t)
	runtime.KeepAlive(t)
}

// ToDevice copies x to dev; x itself is returned where it is there already.
func (s *Scope) ToDevice(x *Tensor, dev Device) *Tensor {
	var out C.dt_out
	h := x.handle("ToDevice")
	if dev != x.dev {
		outsideCapture("ToDevice", moves)
	}
	check("ToDevice", C.dt_to_device(s.cmode(), h, C.dt_device(dev.index), &out), x)
	runtime.KeepAlive(x)
	y := s.wrap(&out)
	if s.rec != nil {
		s.note("ToDevice", []*Tensor{y}, x)
	}
	return y
}

// wrap makes the Go side of a tensor that a C call returned.
func (s *Scope) wrap(o *C.dt_out) *Tensor {
	shape := make([]int, o.rank)
	for i := range shape {
		shape[i] = int(o.shape[i])
	}
	t := &Tensor{h: o.t, shape: shape, dtype: DType(o.dtype), dev: Device{int32(o.device)}}
	s.a.add(t)
	return t
}

func (s *Scope) wrapAll(outs []C.dt_out) []*Tensor {
	ts := make([]*Tensor, len(outs))
	for i := range outs {
		ts[i] = s.wrap(&outs[i])
	}
	return ts
}

func (t *Tensor) handle(op string) C.dt_tensor {
	if t == nil {
		misuse(op, "nil tensor")
	}
	if t.h == nil {
		misuse(op, "tensor of shape %v was used after its scope ended or it was closed, or is one of Shapes", t.shape)
	}
	return t.h
}

func (t *Tensor) handleOrNil(op string) C.dt_tensor {
	if t == nil {
		return nil
	}
	return t.handle(op)
}

func handles(op string, ts []*Tensor) []C.dt_tensor {
	hs := make([]C.dt_tensor, len(ts))
	for i, t := range ts {
		hs[i] = t.handle(op)
	}
	return hs
}

func first(hs []C.dt_tensor) *C.dt_tensor { return unsafe.SliceData(hs) }

func cdims(dims []int) (out [C.DT_MAX_RANK]C.int64_t, n C.int32_t) {
	if len(dims) > len(out) {
		misuse("dims", "%d dimensions, at most %d are supported", len(dims), len(out))
	}
	for i, d := range dims {
		out[i] = C.int64_t(d)
	}
	return out, C.int32_t(len(dims))
}

func cbool(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}
