package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ditrun/ditrun/internal/disk"
)

// Tensor is a tensor to write. Of Info only Name, DType and Shape are used.
// Data is written in place, never copied.
type Tensor struct {
	Info
	Data []byte  // little-endian elements in C order
	src  *origin // where Data is nil and From made the tensor
}

// An origin is what tensors are read from as they are written.
type origin struct{ Source }

// From lists the tensors of src for writing; they are read as they are written,
// a few megabytes at a time, and what is written counts only if [Source] Verify finds them as they were.
func From(src Source) []Tensor {
	var out []Tensor
	from := &origin{src}
	for _, info := range src.Tensors() {
		out = append(out, Tensor{Info: info, src: from})
	}
	return out
}

// size is the number of bytes that writeTo writes.
func (t Tensor) size() int64 {
	if t.src != nil {
		return t.Size
	}
	return int64(len(t.Data))
}

func (t Tensor) writeTo(w io.Writer) error {
	if t.src == nil {
		_, err := w.Write(t.Data)
		return err
	}
	buf := make([]byte, min(t.Size, 4<<20))
	for off := int64(0); off < t.Size; off += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), t.Size-off)]
		if err := t.src.ReadAt(p, t.Name, off); err != nil {
			return err
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// Options says how a safetensors file is laid out. The zero value gives the
// layout of the reference writer.
type Options struct {
	// KeepOrder keeps the tensors in the order given. The default is the
	// reference writer's: widest element types first, then by name.
	KeepOrder bool
	// Align makes the first tensor start at a multiple of Align bytes, by
	// padding the header with spaces. It is a multiple of 8; 0 means 8.
	Align int
}

// Write writes a safetensors file with the reference writer's layout, whole or
// not at all. Programs that expect PyTorch's convention look
// for "format": "pt" in meta; a nil or empty meta writes none.
func Write(path string, tensors []Tensor, meta map[string]string) error {
	return WriteOptions(path, tensors, meta, Options{})
}

// WriteOptions is Write with another layout.
func WriteOptions(path string, tensors []Tensor, meta map[string]string, opt Options) error {
	return disk.WriteFile(path, func(w io.Writer) error { return Encode(w, tensors, meta, opt) })
}

// Encode writes a safetensors file to w, for callers that hash the bytes on
// their way. Everything is checked before the first byte is written.
func Encode(w io.Writer, tensors []Tensor, meta map[string]string, opt Options) error {
	ordered := slices.Clone(tensors)
	if !opt.KeepOrder {
		slices.SortStableFunc(ordered, func(a, b Tensor) int {
			return cmp.Or(cmp.Compare(b.DType.rank(), a.DType.rank()), strings.Compare(a.Name, b.Name))
		})
	}
	head, err := buildHeader(ordered, meta, opt.Align)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	for _, t := range ordered {
		if err := t.writeTo(w); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	return verifySources(ordered)
}

// verifySources says whether what the tensors were read from is what was once written.
func verifySources(tensors []Tensor) error {
	known := map[*origin]bool{}
	for _, t := range tensors {
		if t.src != nil && !known[t.src] {
			known[t.src] = true
			if err := t.src.Verify(); err != nil {
				return err
			}
		}
	}
	return nil
}

// buildHeader returns the bytes before the data: length, JSON and padding. It
// refuses what Open would refuse.
func buildHeader(tensors []Tensor, meta map[string]string, align int) ([]byte, error) {
	if align == 0 {
		align = 8
	}
	if align < 0 || align%8 != 0 {
		return nil, fmt.Errorf("alignment %d is not a multiple of 8", align)
	}
	if len(tensors) >= maxEntries || len(meta) > maxEntries {
		return nil, fmt.Errorf("%d tensors, %d metadata keys: more than %d", len(tensors), len(meta), maxEntries)
	}
	var b bytes.Buffer
	b.Write(make([]byte, 8)) // the length, known last
	b.WriteByte('{')
	if len(meta) > 0 {
		// json.Marshal sorts the keys, so equal input gives equal bytes.
		for _, k := range slices.Sorted(maps.Keys(meta)) {
			if !utf8.ValidString(k) || !utf8.ValidString(meta[k]) {
				return nil, fmt.Errorf("metadata %q is not valid UTF-8", k)
			}
		}
		fmt.Fprintf(&b, "%s:%s", quote(metadataKey), quote(meta))
	}
	seen := make(map[string]bool, len(tensors))
	offset := uint64(0)
	for i, t := range tensors {
		switch {
		case t.Name == metadataKey:
			return nil, fmt.Errorf("tensor name %q is reserved", t.Name)
		case !utf8.ValidString(t.Name):
			return nil, fmt.Errorf("tensor name %q is not valid UTF-8", t.Name)
		case seen[t.Name]:
			return nil, fmt.Errorf("duplicate tensor name %q", t.Name)
		case t.DType.Bits() == 0:
			return nil, fmt.Errorf("tensor %q: unknown dtype %q", t.Name, string(t.DType))
		case len(t.Shape) > maxRank:
			return nil, fmt.Errorf("tensor %q: %d dimensions, at most %d allowed", t.Name, len(t.Shape), maxRank)
		}
		seen[t.Name] = true
		want, err := byteSize(t.DType, t.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if uint64(t.size()) != want {
			return nil, fmt.Errorf("tensor %q: %d bytes for shape %v %s, want %d", t.Name, t.size(), t.Shape, t.DType,
				want)
		}
		if i > 0 || len(meta) > 0 {
			b.WriteByte(',')
		}
		shape := t.Shape
		if shape == nil {
			shape = []int64{} // a scalar is [], never null
		}
		fmt.Fprintf(&b, `%s:{"dtype":%s,"shape":%s,"data_offsets":[%d,%d]}`,
			quote(t.Name), quote(string(t.DType)), quote(shape), offset, offset+want)
		offset += want
	}
	b.WriteByte('}')
	for b.Len()%align != 0 {
		b.WriteByte(' ')
	}
	n := b.Len() - 8
	if n > maxHeader {
		return nil, fmt.Errorf("header of %d bytes, at most %d allowed", n, maxHeader)
	}
	head := b.Bytes()
	binary.LittleEndian.PutUint64(head, uint64(n))
	return head, nil
}

// quote is v as compact JSON without the escapes meant for HTML. The values
// passed here cannot fail to encode.
func quote(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(errors.Join(errors.New("checkpoint: encode header"), err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
