package pickle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// step carries out one operation.
func (d *Decoder) step(op byte) error {
	switch op {
	case 0x80, 0x95: // PROTO, FRAME
		return d.frame(op)
	case 'N', 0x88, 0x89, 'J', 'K', 'M', 0x8a, 'G': // NONE, NEWTRUE, NEWFALSE, BININT and its relatives, BINFLOAT
		return d.scalar(op)
	case 'X', 0x8c, 0x8d, 'T', 'U', 'B', 'C', 0x8e: // BINUNICODE, BINBYTES and their relatives
		return d.stringOrBytes(op)
	case '(', '0', '1', '2': // MARK, POP, POP_MARK, DUP
		return d.onStack(op)
	case 'h', 'j', 'q', 'r', 0x94: // BINGET, LONG_BINGET, BINPUT, LONG_BINPUT, MEMOIZE
		return d.onMemo(op)
	case 'c', 0x93: // GLOBAL, STACK_GLOBAL
		return d.global(op)
	case 'R', 0x81: // REDUCE, NEWOBJ
		return d.call()
	case 'b': // BUILD
		return d.build()
	case 'Q': // BINPERSID
		return d.persistent()
	case ')', ']', '}', 0x8f, 't', 0x91, 0x85, 0x86, 0x87: // EMPTY_TUPLE and its relatives, TUPLE and its
		return d.container(op)
	case 'a', 'e', 0x90: // APPEND, APPENDS, ADDITEMS
		return d.appendItems(op)
	case 's', 'u': // SETITEM, SETITEMS
		return d.setItems(op)
	}
	return fmt.Errorf("operation %#02x, which weight files do not have", op)
}

// frame reads the protocol of a pickle, or the size of a part of it, which is a hint for readers of streams.
func (d *Decoder) frame(op byte) error {
	if op == 0x95 {
		_, err := d.bytes(8)
		return err
	}
	b, err := d.bytes(1)
	if err == nil && b[0] > 5 {
		err = fmt.Errorf("protocol %d, at most 5 is known", b[0])
	}
	return err
}

// intSizes are the bytes of an integer, by operation.
var intSizes = map[byte]int{'J': 4, 'K': 1, 'M': 2}

// scalar pushes None, a boolean or a number.
func (d *Decoder) scalar(op byte) error {
	switch op {
	case 'N':
		d.push(nil)
	case 0x88, 0x89:
		d.push(op == 0x88)
	case 0x8a:
		return d.long()
	case 'G':
		b, err := d.bytes(8)
		if err != nil {
			return err
		}
		d.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	default:
		v, err := d.number(intSizes[op])
		if err != nil {
			return err
		}
		if op == 'J' { // the others have no sign
			v = uint64(int64(int32(v)))
		}
		d.push(int64(v))
	}
	return nil
}

// long reads an integer of up to 255 bytes, two's complement.
func (d *Decoder) long() error {
	n, err := d.number(1)
	if err != nil {
		return err
	}
	b, err := d.bytes(int(n))
	if err != nil {
		return err
	}
	if n > 8 {
		d.push(Long(b))
		return nil
	}
	v := int64(0)
	for i := range b {
		v |= int64(b[i]) << (8 * i)
	}
	if n > 0 && n < 8 && b[n-1] >= 0x80 {
		v -= 1 << (8 * n)
	}
	d.push(v)
	return nil
}

// stringSizes are the bytes of the length of a string, by operation.
var stringSizes = map[byte]int{'X': 4, 0x8c: 1, 0x8d: 8, 'T': 4, 'U': 1, 'B': 4, 'C': 1, 0x8e: 8}

// stringOrBytes pushes a string, or the bytes of one that is not text.
func (d *Decoder) stringOrBytes(op byte) error {
	s, err := d.string(stringSizes[op])
	if err != nil {
		return err
	}
	valid := utf8.ValidString(s)
	switch op {
	case 'B', 'C', 0x8e:
		d.push([]byte(s))
		return nil
	case 'T', 'U':
		if !valid { // Python 2 had one type for text and bytes
			d.push([]byte(s))
			return nil
		}
	}
	if !valid {
		return errors.New("a string that is not valid UTF-8")
	}
	d.push(s)
	return nil
}

// onStack pushes a mark, drops values or repeats one.
func (d *Decoder) onStack(op byte) (err error) {
	var v any
	switch op {
	case '(':
		d.push(mark{})
	case '0':
		_, err = d.pop()
	case '1':
		_, err = d.popMark()
	case '2':
		if v, err = d.top(); err == nil {
			d.push(v)
		}
	}
	return err
}

// onMemo pushes a value from the memo, or notes the top of the stack there.
func (d *Decoder) onMemo(op byte) error {
	key := uint64(len(d.memo)) // MEMOIZE
	if op != 0x94 {
		size := 1
		if op == 'j' || op == 'r' {
			size = 4
		}
		var err error
		if key, err = d.number(size); err != nil {
			return err
		}
	}
	if op == 'h' || op == 'j' {
		v, ok := d.memo[uint32(key)]
		if !ok {
			return fmt.Errorf("entry %d of the memo is empty", key)
		}
		d.push(v)
		return nil
	}
	v, err := d.top()
	if err == nil {
		d.memo[uint32(key)] = v
	}
	return err
}

// persistent pushes the object of a persistent id.
func (d *Decoder) persistent() error {
	d.objects++
	v, err := d.pop()
	if err != nil {
		return err
	}
	id, ok := v.(Tuple)
	if !ok {
		return errors.New("a persistent id that is no tuple")
	}
	if v, err = d.Persistent(id); err != nil {
		return err
	}
	d.push(v)
	return nil
}

// container pushes a new tuple, list, dictionary or set.
func (d *Decoder) container(op byte) error {
	d.objects++ // the container itself
	var items []any
	var err error
	switch op {
	case ')':
		d.push(Tuple{})
		return nil
	case ']', 0x8f: // EMPTY_LIST, EMPTY_SET
		d.push(&List{})
		return nil
	case '}':
		d.push(&Dict{})
		return nil
	case 't', 0x91: // TUPLE, FROZENSET
		items, err = d.popMark()
	case 0x85, 0x86, 0x87: // TUPLE1 to 3
		items, err = d.popN(int(op) - 0x84)
	}
	if err == nil {
		d.push(Tuple(items))
	}
	return err
}

// appendItems adds one item, or all above the mark, to the list or set below.
func (d *Decoder) appendItems(op byte) error {
	items, err := d.items(op == 'a', 1)
	if err != nil {
		return err
	}
	top, err := d.top()
	if err != nil {
		return err
	}
	switch l := top.(type) {
	case *List:
		l.Items = append(l.Items, items...)
	case Opaque:
	default:
		return fmt.Errorf("items for a %s", KindOf(top))
	}
	return nil
}

// setItems adds a key and its value, or all pairs above the mark, to the dictionary below.
func (d *Decoder) setItems(op byte) error {
	items, err := d.items(op == 's', 2)
	if err != nil {
		return err
	}
	if len(items)%2 != 0 {
		return errors.New("a key without a value")
	}
	top, err := d.top()
	if err != nil {
		return err
	}
	if _, opaque := top.(Opaque); opaque || len(items) == 0 {
		return nil
	}
	dict, ok := top.(*Dict)
	if !ok {
		return fmt.Errorf("items for a %s", KindOf(top))
	}
	for i := 0; i < len(items); i += 2 {
		if err := dict.Set(items[i], items[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// items takes n values where there are few, or all above the mark.
func (d *Decoder) items(few bool, n int) ([]any, error) {
	d.objects++
	if few {
		return d.popN(n)
	}
	return d.popMark()
}
