package checkpoint

import (
	"context"
	"fmt"
	"strings"
)

// A Source holds named tensors: a [File], or tensors in [Memory], or a view of another
// source, as package namemap makes. Its methods may be called from several goroutines at once.
type Source interface {
	// Tensors lists the tensors in the order of the file.
	Tensors() []Info
	// Lookup returns the tensor called name.
	Lookup(name string) (Info, bool)
	// ReadAt fills p with the bytes of a tensor from off on: little-endian elements in C order.
	ReadAt(p []byte, name string, off int64) error
	// Verify says whether the files behind the tensors have the checksums that stand beside them, see [File.Verify].
	// Whoever reads tensors calls it before what was made of them counts.
	Verify() error
}

// SizeOf adds up the bytes of all tensors of a source.
func SizeOf(src Source) (n int64) {
	for _, t := range src.Tensors() {
		n += t.Size
	}
	return n
}

// Until returns src, whose reads fail with the cause of ctx once that has ended: so a copy of a large file, which
// is read in pieces, stops soon.
func Until(ctx context.Context, src Source) Source { return until{ctx, src} }

type until struct {
	ctx context.Context
	Source
}

func (u until) ReadAt(p []byte, name string, off int64) error {
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	return u.Source.ReadAt(p, name, off)
}

// Read returns the bytes of the tensor called name.
func Read(src Source, name string) ([]byte, error) {
	info, ok := src.Lookup(name)
	if !ok {
		return nil, fmt.Errorf("no tensor %q", name)
	}
	p := make([]byte, info.Size)
	if err := src.ReadAt(p, name, 0); err != nil {
		return nil, err
	}
	return p, nil
}

// Floats returns the elements of a tensor of type F32, F16, BF16 or F64, the last rounded.
func Floats(src Source, name string) ([]float32, error) {
	info, ok := src.Lookup(name)
	if ok && decodeFloats(nil, info.DType) == nil {
		return nil, fmt.Errorf("tensor %s has elements of type %s, want F32, F16, BF16 or F64", name, info.DType)
	}
	b, err := Read(src, name)
	if err != nil {
		return nil, err
	}
	return decodeFloats(b, info.DType), nil
}

// Memory returns tensors that are in memory as a source.
func Memory(tensors []Tensor) Source {
	m := memory{tensors, make(map[string]int, len(tensors))}
	for i, t := range tensors {
		m.index[t.Name] = i
	}
	return m
}

type memory struct {
	tensors []Tensor
	index   map[string]int
}

// info is what a source says of tensor i.
func (m memory) info(i int) Info {
	info := m.tensors[i].Info
	info.Offset, info.Size = -1, int64(len(m.tensors[i].Data))
	return info
}

// Tensors implements [Source].
func (m memory) Tensors() []Info {
	infos := make([]Info, len(m.tensors))
	for i := range infos {
		infos[i] = m.info(i)
	}
	return infos
}

// Lookup implements [Source].
func (m memory) Lookup(name string) (Info, bool) {
	i, ok := m.index[name]
	if !ok {
		return Info{}, false
	}
	return m.info(i), true
}

// ReadAt implements [Source].
func (m memory) ReadAt(p []byte, name string, off int64) error {
	info, ok := m.Lookup(name)
	if !ok {
		return fmt.Errorf("no tensor %q", name)
	}
	if err := info.CheckRange(len(p), off); err != nil {
		return err
	}
	copy(p, m.tensors[m.index[name]].Data[off:])
	return nil
}

// Verify implements [Source].
func (m memory) Verify() error { return nil }

// A Mismatch lists everything in which a file's tensors differ from those that were wanted. The names
// are the file's.
type Mismatch struct {
	Missing, Wrong, Unexpected []string
}

// Err returns m, or nil if there is nothing in it.
func (m Mismatch) Err() error {
	if len(m.Missing)+len(m.Wrong)+len(m.Unexpected) == 0 {
		return nil
	}
	return m
}

func (m Mismatch) Error() string {
	var parts []string
	for _, g := range []struct {
		what  string
		names []string
	}{{"missing", m.Missing}, {"of another shape or type", m.Wrong}, {"unexpected", m.Unexpected}} {
		if len(g.names) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", len(g.names), g.what, abridge(g.names)))
		}
	}
	return "weights do not fit the model: " + strings.Join(parts, "; ")
}

// abridge lists names; a wrong file has hundreds of them, of which the first ones tell enough.
func abridge(names []string) string {
	const most, longest = 12, 200
	var shown []string
	for _, name := range names[:min(len(names), most)] {
		if len(name) > longest {
			name = strings.ToValidUTF8(name[:longest], "") + "..."
		}
		shown = append(shown, name)
	}
	if len(names) <= most {
		return strings.Join(shown, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(shown, ", "), len(names)-most)
}
