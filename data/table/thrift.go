package table

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The types of Thrift's compact protocol, in which parquet keeps its headers.
const (
	thriftTrue = iota + 1
	thriftFalse
	thriftInt8
	thriftInt16
	thriftInt32
	thriftInt64
	thriftDouble
	thriftBinary
	thriftList
	thriftSet
	thriftMap
	thriftStruct
	thriftUUID
)

// errThriftShort says that bytes end within a value.
var errThriftShort = errors.New("ends within a value")

const (
	// maxThriftDepth is more than parquet's headers nest; a reader that recurses would run out of stack.
	maxThriftDepth = 16
	// maxThriftStructs bounds the structs in lists of one header. One takes a byte and becomes some hundred in memory.
	maxThriftStructs = 1 << 20
)

// thriftWalk walks over a value of the compact protocol and checks that all that it announces is there: a decoder
// that makes room for what is announced then makes room for no more than there is.
type thriftWalk struct {
	b       []byte
	at      int
	structs int
}

// thriftField is what a visitor of a struct is told: the number of the field, its type and, of whole numbers, the
// value; of lists, how many elements they have.
type thriftField struct {
	id    int16
	kind  byte
	value int64
}

// message walks over a struct and calls visit, which may be nil, for the fields of it and of the structs directly
// in it; in is the number of the field that holds the struct, 0 for the outermost.
func (t *thriftWalk) message(visit func(in int16, f thriftField)) error {
	return t.structure(0, 0, visit)
}

func (t *thriftWalk) structure(depth int, in int16, visit func(in int16, f thriftField)) error {
	if depth > maxThriftDepth {
		return fmt.Errorf("more than %d levels deep", maxThriftDepth)
	}
	id := int16(0)
	for {
		head, err := t.byte()
		if err != nil {
			return err
		}
		if head == 0 {
			return nil
		}
		f := thriftField{kind: head & 15}
		if head>>4 != 0 {
			id += int16(head >> 4)
		} else {
			v, err := t.varint()
			if err != nil {
				return err
			}
			id = int16(v)
		}
		f.id = id
		switch {
		case f.kind == thriftTrue || f.kind == thriftFalse: // the type is the value
			f.value = int64(thriftFalse) - int64(f.kind)
		case f.kind == thriftStruct && depth == 0:
			err = t.structure(depth+1, id, visit)
		default:
			f.value, err = t.value(f.kind, depth)
		}
		if err != nil {
			return err
		}
		if visit != nil && depth <= 1 {
			visit(in, f)
		}
	}
}

// value walks over a value that is not a field of type bool and returns it if it is a whole number, its length
// otherwise.
func (t *thriftWalk) value(kind byte, depth int) (int64, error) {
	switch kind {
	case thriftTrue, thriftFalse, thriftInt8: // a bool in a list takes a byte
		b, err := t.byte()
		return int64(int8(b)), err
	case thriftInt16, thriftInt32, thriftInt64:
		return t.varint()
	case thriftDouble:
		return 8, t.skip(8)
	case thriftUUID:
		return 16, t.skip(16)
	case thriftBinary:
		n, err := t.uvarint()
		if err != nil {
			return 0, err
		}
		return int64(n), t.skip(n)
	case thriftList, thriftSet:
		return t.list(depth)
	case thriftMap:
		return t.pairs(depth)
	case thriftStruct:
		return 0, t.structure(depth+1, 0, nil)
	}
	return 0, fmt.Errorf("values of the unknown type %d", kind)
}

func (t *thriftWalk) list(depth int) (int64, error) {
	head, err := t.byte()
	if err != nil {
		return 0, err
	}
	n, kind := uint64(head>>4), head&15
	if n == 15 {
		if n, err = t.uvarint(); err != nil {
			return 0, err
		}
	}
	return int64(n), t.elements(n, depth, kind)
}

func (t *thriftWalk) pairs(depth int) (int64, error) {
	n, err := t.uvarint()
	if err != nil || n == 0 {
		return 0, err
	}
	kinds, err := t.byte()
	if err != nil {
		return 0, err
	}
	return int64(n), t.elements(n, depth, kinds>>4, kinds&15)
}

// elements walks over n elements of a list, or pairs of a map, each of at least a byte.
func (t *thriftWalk) elements(n uint64, depth int, kinds ...byte) error {
	if depth++; depth > maxThriftDepth {
		return fmt.Errorf("more than %d levels deep", maxThriftDepth)
	}
	if n > uint64(len(t.b)-t.at) {
		return errThriftShort
	}
	for _, kind := range kinds {
		if kind != thriftStruct {
			continue
		}
		if t.structs += int(n); t.structs > maxThriftStructs {
			return fmt.Errorf("more than %d structs", maxThriftStructs)
		}
	}
	for range n {
		for _, kind := range kinds {
			if _, err := t.value(kind, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *thriftWalk) byte() (byte, error) {
	if t.at >= len(t.b) {
		return 0, errThriftShort
	}
	t.at++
	return t.b[t.at-1], nil
}

func (t *thriftWalk) skip(n uint64) error {
	if n > uint64(len(t.b)-t.at) {
		return errThriftShort
	}
	t.at += int(n)
	return nil
}

func (t *thriftWalk) uvarint() (uint64, error) {
	v, n := binary.Uvarint(t.b[t.at:])
	switch {
	case n == 0:
		return 0, errThriftShort
	case n < 0:
		return 0, errors.New("a number of more than 64 bits")
	}
	t.at += n
	return v, nil
}

func (t *thriftWalk) varint() (int64, error) {
	v, err := t.uvarint()
	return int64(v>>1) ^ -int64(v&1), err
}
