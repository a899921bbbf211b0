package checkpoint

import (
	"fmt"
	"math/bits"
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

// A strided tensor is a view of a storage as the file describes it.
type strided struct {
	storage        *storage
	dtype          DType
	offset         int64 // elements
	shape, strides []int64
}

// Kind implements [pickle.Object].
func (*storage) Kind() string { return "storage" }

// HasState implements [pickle.Object].
func (*storage) HasState() bool { return false }

// Kind implements [pickle.Object].
func (*strided) Kind() string { return "tensor" }

// HasState implements [pickle.Object].
func (*strided) HasState() bool { return true }

// check holds the view against its storage: every element lies inside it.
func (t *strided) check() error {
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
func (t *strided) contiguous() bool {
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
func (t *strided) place() int64 {
	at := t.offset * int64(t.dtype.Size())
	st := t.storage
	if st.base != nil {
		at += st.shift
		st = st.base
	}
	return st.offset + at
}

// Elements that are read together come from one piece of the storage if that is not more than this many bytes, or this
// many times the elements.
const (
	maxGather      = 16 << 20
	maxGatherTimes = 64
)

// gather fills p with the bytes from off on of a tensor that is not contiguous. read reads the file.
func (t *strided) gather(p []byte, off int64, read func(p []byte, at int64) error) error {
	size := int64(t.dtype.Size())
	if len(p) == 0 {
		return nil
	}
	first, last := off/size, (off+int64(len(p))-1)/size
	// Outer dimensions on which all these elements agree are fixed, so that a few rows of a large
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
	left, at := first, int64(0)
	for i := len(t.shape) - 1; i >= 0; i-- {
		index[i] = left % t.shape[i]
		left /= t.shape[i]
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
func (t *strided) span(first, last int64) (lo, hi int64) {
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
