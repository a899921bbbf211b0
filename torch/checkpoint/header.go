package checkpoint

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits on what a header may hold. The first is the format's own; the others
// bound the memory a hostile header can cost. Real files stay far below: the
// largest public language models hold some ten thousand tensors, and libtorch
// allows 64 dimensions.
const (
	maxHeader  = 100_000_000
	maxEntries = 1 << 17
	maxRank    = 64
)

const metadataKey = "__metadata__"

// entry is one tensor as the header states it: nothing in it is checked yet
// except that it has the right fields of the right types.
type entry struct {
	name       string
	dtype      DType
	shape      []int64
	begin, end uint64
}

// header reads the JSON of a safetensors header. encoding/json is not used
// because it keeps the last of two equal keys, mends bad strings silently and
// accepts any schema; a header is untrusted and its grammar is tiny.
type header struct {
	b []byte
	i int
}

// parseHeader returns the tensors in header order, and the metadata (nil if
// the header has none).
func parseHeader(b []byte) ([]entry, map[string]string, error) {
	if !utf8.Valid(b) {
		return nil, nil, errors.New("header is not valid UTF-8")
	}
	if len(b) == 0 || b[0] != '{' {
		return nil, nil, errors.New("header does not start with '{'")
	}
	h := &header{b: b}
	var entries []entry
	var meta map[string]string
	seen := make(map[string]bool)
	err := h.object(func(key string) error {
		if seen[key] {
			return fmt.Errorf("duplicate name %q", key)
		}
		if len(seen) == maxEntries {
			return fmt.Errorf("more than %d tensors", maxEntries)
		}
		seen[key] = true
		if key == metadataKey {
			var err error
			if meta, err = h.metadata(); err != nil {
				return fmt.Errorf("%s: %w", metadataKey, err)
			}
			return nil
		}
		e, err := h.entry(key)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", key, err)
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	if h.space(); h.i != len(h.b) {
		return nil, nil, fmt.Errorf("header: %w", h.want("only spaces after the object"))
	}
	return entries, meta, nil
}

// metadata reads an object of strings.
func (h *header) metadata() (map[string]string, error) {
	meta := make(map[string]string)
	err := h.object(func(key string) error {
		if _, ok := meta[key]; ok {
			return fmt.Errorf("duplicate key %q", key)
		}
		if len(meta) == maxEntries {
			return fmt.Errorf("more than %d keys", maxEntries)
		}
		v, err := h.string()
		if err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		meta[key] = v
		return nil
	})
	return meta, err
}

// entryFields are the fields of an entry, all of which it has.
var entryFields = [...]string{"dtype", "shape", "data_offsets"}

// entry reads {"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}, the fields
// in any order.
func (h *header) entry(name string) (entry, error) {
	e := entry{name: name}
	var seen [len(entryFields)]bool
	err := h.object(func(key string) error {
		i := slices.Index(entryFields[:], key)
		switch {
		case i < 0:
			return fmt.Errorf("unknown field %q", key)
		case seen[i]:
			return fmt.Errorf("duplicate field %q", key)
		}
		seen[i] = true
		switch key {
		case "dtype":
			return h.dtype(&e)
		case "shape":
			return h.shape(&e)
		}
		return h.offsets(&e)
	})
	if i := slices.Index(seen[:], false); err == nil && i >= 0 {
		err = fmt.Errorf("field %q is missing", entryFields[i])
	}
	return e, err
}

func (h *header) dtype(e *entry) error {
	s, err := h.string()
	if err != nil {
		return err
	}
	if e.dtype = DType(s); e.dtype.Bits() == 0 {
		return fmt.Errorf("unknown dtype %q", s)
	}
	return nil
}

func (h *header) shape(e *entry) error {
	e.shape = []int64{}
	return h.array(func() error {
		if len(e.shape) == maxRank {
			return fmt.Errorf("more than %d dimensions", maxRank)
		}
		v, err := h.uint()
		if err != nil {
			return err
		}
		if v > math.MaxInt64 {
			return fmt.Errorf("dimension %d is too large", v)
		}
		e.shape = append(e.shape, int64(v))
		return nil
	})
}

func (h *header) offsets(e *entry) error {
	n := 0
	err := h.array(func() error {
		v, err := h.uint()
		if err != nil {
			return err
		}
		switch n++; n {
		case 1:
			e.begin = v
		case 2:
			e.end = v
		default:
			return errors.New("data_offsets has more than 2 numbers")
		}
		return nil
	})
	if err == nil && n != 2 {
		err = fmt.Errorf("data_offsets has %d numbers, want 2", n)
	}
	return err
}

// object reads an object and calls value with each key, positioned at the value.
func (h *header) object(value func(key string) error) error {
	if err := h.take('{'); err != nil {
		return err
	}
	if h.peek() == '}' {
		h.i++
		return nil
	}
	for {
		key, err := h.string()
		if err != nil {
			return err
		}
		if err := h.take(':'); err != nil {
			return err
		}
		if err := value(key); err != nil {
			return err
		}
		if h.peek() == ',' {
			h.i++
			continue
		}
		return h.take('}')
	}
}

// array reads an array and calls item at each element.
func (h *header) array(item func() error) error {
	if err := h.take('['); err != nil {
		return err
	}
	if h.peek() == ']' {
		h.i++
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		if h.peek() == ',' {
			h.i++
			continue
		}
		return h.take(']')
	}
}

// uint reads a non-negative integer of at most 64 bits without fraction,
// exponent or leading zeros.
func (h *header) uint() (uint64, error) {
	h.space()
	start := h.i
	for h.i < len(h.b) && h.b[h.i] >= '0' && h.b[h.i] <= '9' {
		h.i++
	}
	digits := h.b[start:h.i]
	if len(digits) == 0 {
		return 0, h.want("a non-negative integer")
	}
	if h.i < len(h.b) {
		switch h.b[h.i] {
		case '.', 'e', 'E':
			return 0, h.want("an integer")
		}
	}
	if digits[0] == '0' && len(digits) > 1 {
		return 0, fmt.Errorf("byte %d: number with a leading zero", start)
	}
	if len(digits) > 20 {
		return 0, fmt.Errorf("byte %d: number of %d digits does not fit 64 bits", start, len(digits))
	}
	v, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("byte %d: number %s does not fit 64 bits", start, digits)
	}
	return v, nil
}

// string reads a JSON string. Unpaired surrogate escapes are refused: mended
// to U+FFFD, two different names could become one.
func (h *header) string() (string, error) {
	h.space()
	if h.i >= len(h.b) || h.b[h.i] != '"' {
		return "", h.want("a string")
	}
	h.i++
	start := h.i
	for h.i < len(h.b) && h.b[h.i] != '"' && h.b[h.i] != '\\' && h.b[h.i] >= 0x20 {
		h.i++
	}
	s := h.b[start:h.i:h.i]
	for {
		if h.i >= len(h.b) {
			return "", h.want("the end of a string")
		}
		switch c := h.b[h.i]; {
		case c == '"':
			h.i++
			return string(s), nil
		case c < 0x20:
			return "", h.want("no control character in a string")
		case c == '\\':
			r, err := h.escape()
			if err != nil {
				return "", err
			}
			s = utf8.AppendRune(s, r)
		default:
			s = append(s, c)
			h.i++
		}
	}
}

// escape reads one backslash escape, or two that form a surrogate pair.
func (h *header) escape() (rune, error) {
	h.i++
	if h.i >= len(h.b) {
		return 0, h.want("an escape")
	}
	c := h.b[h.i]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		r, err := h.hex4()
		if err != nil {
			return 0, err
		}
		if !utf16.IsSurrogate(r) {
			return r, nil
		}
		if h.i+1 < len(h.b) && h.b[h.i] == '\\' && h.b[h.i+1] == 'u' {
			h.i++
			low, err := h.hex4()
			if err != nil {
				return 0, err
			}
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				return pair, nil
			}
		}
		return 0, fmt.Errorf("byte %d: unpaired surrogate in a string", h.i)
	default:
		return 0, h.want("an escape")
	}
	h.i++
	return rune(c), nil
}

// hex4 reads uXXXX, positioned at the u.
func (h *header) hex4() (rune, error) {
	h.i++
	if h.i+4 > len(h.b) {
		return 0, h.want("four hexadecimal digits")
	}
	v, err := strconv.ParseUint(string(h.b[h.i:h.i+4]), 16, 16)
	if err != nil {
		return 0, h.want("four hexadecimal digits")
	}
	h.i += 4
	return rune(v), nil
}

// space skips JSON white space.
func (h *header) space() {
	for h.i < len(h.b) && (h.b[h.i] == ' ' || h.b[h.i] == '\n' || h.b[h.i] == '\t' || h.b[h.i] == '\r') {
		h.i++
	}
}

// peek is the next byte after white space, 0 at the end.
func (h *header) peek() byte {
	h.space()
	if h.i < len(h.b) {
		return h.b[h.i]
	}
	return 0
}

func (h *header) take(c byte) error {
	if h.peek() != c {
		return h.want(strconv.QuoteRune(rune(c)))
	}
	h.i++
	return nil
}

// want is the error for what stands at the current byte.
func (h *header) want(what string) error {
	if h.i >= len(h.b) {
		return fmt.Errorf("byte %d: expected %s, found the end", h.i, what)
	}
	r, _ := utf8.DecodeRune(h.b[h.i:])
	return fmt.Errorf("byte %d: expected %s, found %q", h.i, what, r)
}
