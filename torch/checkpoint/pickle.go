package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// Limits on a pickle. A training checkpoint of the largest DiT, with its optimizer, stays a hundred
// times below them.
const (
	maxPickle  = 16 << 20 // bytes
	maxOps     = 1 << 22
	maxStack   = 1 << 19
	maxMemo    = 1 << 18
	maxObjects = 1 << 19 // made: containers, their items, names, results of calls
)

// What a pickle is made of, beside nil, bool, int64, float64, string and []byte.
type (
	pickleTuple []any
	pickleList  struct{ items []any }
	pickleDict  struct {
		keys, values []any
		index        map[any]bool
	}
	pickleGlobal string // module.name
	pickleLong   string // little-endian bytes of an integer beyond 64 bits
	// pickleOpaque stands for an object of a class that this package does not know: nothing of it is
	// kept, and nothing of it runs.
	pickleOpaque struct{ class string }
	pickleMark   struct{}
)

// An unpickler reads one pickle. It is a machine that pushes plain data: no name in the file is ever
// looked up in a program, and calls are made to the few functions of the table calls alone.
type unpickler struct {
	b          []byte
	i          int
	stack      []any
	memo       map[uint32]any
	objects    int
	persistent func(id pickleTuple) (any, error)
}

// load reads the pickle at the current byte up to its STOP.
func (u *unpickler) load() (any, error) {
	u.stack, u.memo, u.objects = u.stack[:0], map[uint32]any{}, 0
	for ops := 0; ; ops++ {
		at := u.i
		op, err := u.bytes(1)
		if err != nil {
			return nil, err
		}
		if op[0] == '.' {
			v, err := u.pop()
			if err == nil && len(u.stack) > 0 {
				err = errors.New("values are left over at the end")
			}
			return v, err
		}
		if ops == maxOps {
			return nil, fmt.Errorf("pickle of more than %d operations", maxOps)
		}
		if err := u.step(op[0]); err != nil {
			return nil, fmt.Errorf("pickle, byte %d: %w", at, err)
		}
		if len(u.stack) > maxStack || len(u.memo) > maxMemo || u.objects > maxObjects {
			return nil, fmt.Errorf("pickle, byte %d: too many objects", at)
		}
	}
}

func (u *unpickler) bytes(n int) ([]byte, error) {
	if n < 0 || n > len(u.b)-u.i {
		return nil, fmt.Errorf("pickle ends at byte %d, %d more were expected", len(u.b), n-(len(u.b)-u.i))
	}
	u.i += n
	return u.b[u.i-n : u.i], nil
}

func (u *unpickler) push(v any) { u.stack = append(u.stack, v) }

// pop takes the top of the stack, which must not be a mark.
func (u *unpickler) pop() (any, error) {
	if len(u.stack) == 0 {
		return nil, errors.New("the stack is empty")
	}
	v := u.stack[len(u.stack)-1]
	if _, mark := v.(pickleMark); mark {
		return nil, errors.New("a mark where a value was expected")
	}
	u.stack = u.stack[:len(u.stack)-1]
	return v, nil
}

// popMark takes what lies above the last mark.
func (u *unpickler) popMark() ([]any, error) {
	for i := len(u.stack) - 1; i >= 0; i-- {
		if _, ok := u.stack[i].(pickleMark); ok {
			items := append([]any(nil), u.stack[i+1:]...)
			u.stack = u.stack[:i]
			u.objects += len(items)
			return items, nil
		}
	}
	return nil, errors.New("no mark on the stack")
}

// number reads n little-endian bytes as an unsigned number.
func (u *unpickler) number(n int) (uint64, error) {
	b, err := u.bytes(n)
	if err != nil {
		return 0, err
	}
	v := uint64(0)
	for i := n - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v, nil
}

// text reads a string whose length stands in n bytes.
func (u *unpickler) text(n int) (string, error) {
	size, err := u.number(n)
	if err != nil {
		return "", err
	}
	if size > uint64(len(u.b)) {
		return "", fmt.Errorf("string of %d bytes in a pickle of %d", size, len(u.b))
	}
	b, err := u.bytes(int(size))
	return string(b), err
}

// line reads up to the next line end.
func (u *unpickler) line() (string, error) {
	line, _, ok := bytes.Cut(u.b[u.i:min(len(u.b), u.i+512)], []byte("\n"))
	if !ok {
		return "", errors.New("a name without an end")
	}
	u.i += len(line) + 1
	return string(line), nil
}

// textSizes are the bytes of the length of a string, by operation.
var textSizes = map[byte]int{'X': 4, 0x8c: 1, 0x8d: 8, 'T': 4, 'U': 1, 'B': 4, 'C': 1, 0x8e: 8}

// intSizes are those of an integer.
var intSizes = map[byte]int{'J': 4, 'K': 1, 'M': 2}

// step carries out one operation.
func (u *unpickler) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		b, err := u.bytes(1)
		if err == nil && b[0] > 5 {
			err = fmt.Errorf("protocol %d, at most 5 is known", b[0])
		}
		return err
	case 0x95: // FRAME: a hint for readers of streams
		_, err := u.bytes(8)
		return err
	case '(':
		u.push(pickleMark{})
	case 'N':
		u.push(nil)
	case 0x88, 0x89:
		u.push(op == 0x88)
	case 'J', 'K', 'M': // BININT, BININT1, BININT2
		v, err := u.number(intSizes[op])
		if err != nil {
			return err
		}
		if op == 'J' {
			v = uint64(int64(int32(v)))
		}
		u.push(int64(v))
	case 0x8a: // LONG1
		return u.long()
	case 'G':
		b, err := u.bytes(8)
		if err != nil {
			return err
		}
		u.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case 'X', 0x8c, 0x8d, 'T', 'U': // BINUNICODE and its relatives
		s, err := u.text(textSizes[op])
		if err != nil {
			return err
		}
		if !utf8.ValidString(s) {
			if op != 'T' && op != 'U' {
				return errors.New("a string that is not valid UTF-8")
			}
			u.push([]byte(s)) // Python 2 had one type for text and bytes
			return nil
		}
		u.push(s)
	case 'B', 'C', 0x8e: // BINBYTES and its relatives
		s, err := u.text(textSizes[op])
		if err != nil {
			return err
		}
		u.push([]byte(s))
	case '0', '1', '2': // POP, POP_MARK, DUP
		return u.stackOp(op)
	case 'h', 'j', 'q', 'r', 0x94: // BINGET, LONG_BINGET, BINPUT, LONG_BINPUT, MEMOIZE
		return u.memoOp(op)
	case 'c', 0x93: // GLOBAL, STACK_GLOBAL
		return u.global(op)
	case 'R', 0x81: // REDUCE, NEWOBJ
		return u.call()
	case 'b':
		return u.build()
	case 'Q': // BINPERSID
		u.objects++
		v, err := u.pop()
		if err != nil {
			return err
		}
		id, ok := v.(pickleTuple)
		if !ok {
			return errors.New("a persistent id that is no tuple")
		}
		if v, err = u.persistent(id); err != nil {
			return err
		}
		u.push(v)
	default:
		return u.container(op)
	}
	return nil
}

// long reads an integer of up to 255 bytes, two's complement.
func (u *unpickler) long() error {
	n, err := u.number(1)
	if err != nil {
		return err
	}
	b, err := u.bytes(int(n))
	if err != nil {
		return err
	}
	if n > 8 {
		u.push(pickleLong(b))
		return nil
	}
	v := int64(0)
	for i := range b {
		v |= int64(b[i]) << (8 * i)
	}
	if n > 0 && n < 8 && b[n-1] >= 0x80 {
		v -= 1 << (8 * n)
	}
	u.push(v)
	return nil
}

// kindOf names what v is, for errors.
func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case pickleTuple:
		return "tuple"
	case *pickleList:
		return "list"
	case *pickleDict:
		return "dict"
	case pickleGlobal:
		return string(v)
	case pickleOpaque:
		return v.class
	case *pickleTensor:
		return "tensor"
	case *storage:
		return "storage"
	case pickleLong:
		return "large number"
	case int64:
		return "number"
	}
	return fmt.Sprintf("%T", v)
}
