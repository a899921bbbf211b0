// Package pickle reads Python's pickles into plain values, and runs nothing that a pickle asks for.
//
// A pickle is a program for a small machine with a stack. [Decoder] is that machine with what it could do harm by
// left out: no name in the file is ever looked up in a program. A call makes a value here if the name is one of few
// that stand for plain data, or if the user of the package knows it ([Decoder.Call]); a name by which a pickle would
// act on the machine is refused; every other object is an [Opaque], of which nothing is kept. What a file can make
// the decoder allocate and do is bounded.
//
// Values are nil, bool, int64, float64, string, []byte, the types of this package, and what the user's functions make.
package pickle

import (
	"bytes"
	"errors"
	"fmt"
)

// MaxSize is how many bytes a pickle may have. With it and the other limits a training checkpoint of the largest DiT,
// with its optimizer, stays a hundred times below them.
const MaxSize = 16 << 20

const (
	maxOps     = 1 << 22
	maxStack   = 1 << 19
	maxMemo    = 1 << 18
	maxObjects = 1 << 19 // made: containers, their items, names, results of calls
)

// Values of a pickle beside those that Go has types for.
type (
	// A Tuple is a tuple or a frozen set.
	Tuple []any
	// A List is a list or a set.
	List struct{ Items []any }
	// A Dict is a dictionary of any kind, in its order.
	Dict struct {
		Keys, Values []any
		index        map[any]bool
	}
	// A Namespace is an argparse.Namespace: the arguments of a script.
	Namespace struct{ Dict *Dict }
	// A Global is the name of a function or class: "module.name".
	Global string
	// A Long holds the little-endian bytes of an integer beyond 64 bits.
	Long string
	// An Opaque stands for an object of a class that nobody here knows.
	Opaque struct{ Class string }

	mark struct{}
)

// An Object is a value that the functions of a [Decoder] make.
type Object interface {
	// Kind names what it is, for errors.
	Kind() string
	// HasState says whether a pickle may give it a state, which is dropped.
	HasState() bool
}

// A Decoder reads the pickles that stand one after the other in a text.
type Decoder struct {
	// Persistent returns the object that an id stands for, which the program that wrote the file kept elsewhere.
	Persistent func(id Tuple) (any, error)
	// Call returns what a call of name makes; known is false for a name that it does not know. It may be nil.
	Call func(name string, args Tuple) (v any, known bool, err error)

	text    []byte
	at      int
	stack   []any
	memo    map[uint32]any
	objects int
}

// NewDecoder returns a decoder of text.
func NewDecoder(text []byte) *Decoder { return &Decoder{text: text} }

// Offset is the byte at which the next pickle begins.
func (d *Decoder) Offset() int { return d.at }

// Load reads the next pickle.
func (d *Decoder) Load() (any, error) {
	d.stack, d.memo, d.objects = d.stack[:0], map[uint32]any{}, 0
	for ops := 0; ; ops++ {
		at := d.at
		op, err := d.bytes(1)
		if err != nil {
			return nil, err
		}
		if op[0] == '.' { // STOP
			v, err := d.pop()
			if err == nil && len(d.stack) > 0 {
				err = errors.New("values are left over at the end")
			}
			return v, err
		}
		if ops == maxOps {
			return nil, fmt.Errorf("pickle of more than %d operations", maxOps)
		}
		if err := d.step(op[0]); err != nil {
			return nil, fmt.Errorf("pickle, byte %d: %w", at, err)
		}
		if len(d.stack) > maxStack || len(d.memo) > maxMemo || d.objects > maxObjects {
			return nil, fmt.Errorf("pickle, byte %d: too many objects", at)
		}
	}
}

func (d *Decoder) bytes(n int) ([]byte, error) {
	if n < 0 || n > len(d.text)-d.at {
		return nil, fmt.Errorf("pickle ends at byte %d, %d more were expected", len(d.text), n-(len(d.text)-d.at))
	}
	d.at += n
	return d.text[d.at-n : d.at], nil
}

// number reads n little-endian bytes as an unsigned number.
func (d *Decoder) number(n int) (uint64, error) {
	b, err := d.bytes(n)
	if err != nil {
		return 0, err
	}
	v := uint64(0)
	for i := n - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v, nil
}

// string reads a string whose length stands in n bytes.
func (d *Decoder) string(n int) (string, error) {
	size, err := d.number(n)
	if err != nil {
		return "", err
	}
	if size > uint64(len(d.text)) {
		return "", fmt.Errorf("string of %d bytes in a pickle of %d", size, len(d.text))
	}
	b, err := d.bytes(int(size))
	return string(b), err
}

// line reads up to the next line end.
func (d *Decoder) line() (string, error) {
	line, _, ok := bytes.Cut(d.text[d.at:min(len(d.text), d.at+512)], []byte("\n"))
	if !ok {
		return "", errors.New("a name without an end")
	}
	d.at += len(line) + 1
	return string(line), nil
}

func (d *Decoder) push(v any) { d.stack = append(d.stack, v) }

// pop takes the top of the stack, which must not be a mark.
func (d *Decoder) pop() (any, error) {
	v, err := d.top()
	if err == nil {
		d.stack = d.stack[:len(d.stack)-1]
	}
	return v, err
}

// top is the top of the stack, which must not be a mark.
func (d *Decoder) top() (any, error) {
	if len(d.stack) == 0 {
		return nil, errors.New("the stack is empty")
	}
	v := d.stack[len(d.stack)-1]
	if v == (mark{}) {
		return nil, errors.New("a mark where a value was expected")
	}
	return v, nil
}

// popN takes the n values at the top, in the order in which they were pushed.
func (d *Decoder) popN(n int) ([]any, error) {
	values := make([]any, n)
	for i := n - 1; i >= 0; i-- {
		v, err := d.pop()
		if err != nil {
			return nil, err
		}
		values[i] = v
	}
	d.objects += n
	return values, nil
}

// popMark takes what lies above the last mark, and the mark.
func (d *Decoder) popMark() ([]any, error) {
	for i := len(d.stack) - 1; i >= 0; i-- {
		if _, ok := d.stack[i].(mark); ok {
			items := append([]any(nil), d.stack[i+1:]...)
			d.stack = d.stack[:i]
			d.objects += len(items)
			return items, nil
		}
	}
	return nil, errors.New("no mark on the stack")
}

// KindOf names what v is, for errors.
func KindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case Tuple:
		return "tuple"
	case *List:
		return "list"
	case *Dict:
		return "dict"
	case *Namespace:
		return "Namespace"
	case Global:
		return string(v)
	case Opaque:
		return v.Class
	case Long:
		return "large number"
	case int64:
		return "number"
	case Object:
		return v.Kind()
	}
	return fmt.Sprintf("%T", v)
}

// Set adds a pair to a dictionary. Keys that are strings, numbers or booleans must differ.
func (d *Dict) Set(key, value any) error {
	switch key.(type) {
	case string, int64, bool:
		if d.index == nil {
			d.index = map[any]bool{}
		}
		if d.index[key] {
			return fmt.Errorf("duplicate key %.100q", fmt.Sprint(key))
		}
		d.index[key] = true
	}
	d.Keys, d.Values = append(d.Keys, key), append(d.Values, value)
	return nil
}

// Get returns the value of a string key, nil if there is none.
func (d *Dict) Get(key string) any {
	for i, k := range d.Keys {
		if k == key {
			return d.Values[i]
		}
	}
	return nil
}
