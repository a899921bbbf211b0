package checkpoint

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// A Source holds named tensors: a [File], or a view of another source that [Section], [Map] or
// [Memory] makes. Its methods may be called from several goroutines at once.
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

// A view presents tensors of sources under other names, shapes and orders.
type view struct {
	infos []Info
	index map[string]int
	read  []func(p []byte, off int64) error // as infos
	of    Source                            // nil for tensors in memory
}

func newView(of Source, n int) *view {
	return &view{make([]Info, 0, n), make(map[string]int, n), make([]func([]byte, int64) error, 0, n), of}
}

// add appends a tensor; its Offset becomes -1, since a view has no place in a file.
func (v *view) add(info Info, read func(p []byte, off int64) error) {
	info.Offset = -1
	v.index[info.Name] = len(v.infos)
	v.infos = append(v.infos, info)
	v.read = append(v.read, read)
}

// Verify implements [Source].
func (v *view) Verify() error {
	if v.of == nil {
		return nil
	}
	return v.of.Verify()
}

// Tensors implements [Source].
func (v *view) Tensors() []Info { return slices.Clone(v.infos) }

// Lookup implements [Source].
func (v *view) Lookup(name string) (Info, bool) {
	i, ok := v.index[name]
	if !ok {
		return Info{}, false
	}
	return v.infos[i], true
}

// ReadAt implements [Source].
func (v *view) ReadAt(p []byte, name string, off int64) error {
	i, ok := v.index[name]
	if !ok {
		return fmt.Errorf("no tensor %q", name)
	}
	if size := v.infos[i].Size; off < 0 || off > size || int64(len(p)) > size-off {
		return fmt.Errorf("tensor %q: %d bytes at %d, outside its %d bytes", name, len(p), off, size)
	}
	return v.read[i](p, off)
}

// Section returns the tensors of src whose names begin with prefix, without it.
func Section(src Source, prefix string) Source {
	v := newView(src, 0)
	for _, info := range src.Tensors() {
		full := info.Name
		name, ok := strings.CutPrefix(full, prefix)
		if !ok {
			continue
		}
		info.Name = name
		v.add(info, func(p []byte, off int64) error { return src.ReadAt(p, full, off) })
	}
	return v
}

// Memory returns tensors that are in memory as a source.
func Memory(tensors []Tensor) Source {
	v := newView(nil, len(tensors))
	for _, t := range tensors {
		t.Size = int64(len(t.Data))
		v.add(t.Info, func(p []byte, off int64) error { copy(p, t.Data[off:]); return nil })
	}
	return v
}

// An Entry says how [Map] makes one tensor: from whole tensors or rows of them, one below the other.
type Entry struct {
	Name  string
	Shape []int64 // of the result; the parts have as many elements
	Parts []Part
}

// A Part is a run of rows (indices of the first dimension) of a tensor, or numbers of the program's own.
type Part struct {
	Name     string    // of the tensor in the source; "" for Values
	Shape    []int64   // that the tensor must have
	From, To int64     // rows; both zero for all
	Values   []float32 // rounded to the element type of the entry's other parts
}

// New is the part that these numbers make.
func New(values []float32) Part { return Part{Values: values} }

// Whole is the part that a tensor of this name and shape makes.
func Whole(name string, shape ...int64) Part { return Part{Name: name, Shape: shape} }

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

// Map makes a source of other names and shapes. What is missing in src, of another shape than a part
// wants, or not used by any part is a [Mismatch]; names for which ignore (if not nil) is true may be
// left over.
func Map(src Source, entries []Entry, ignore func(name string) bool) (Source, error) {
	var wrong Mismatch
	used, told := map[string]bool{}, map[string]bool{}
	v := newView(src, len(entries))
	for _, e := range entries {
		v.addEntry(src, e, func(part Part, problem string) {
			switch {
			case told[part.Name]:
			case problem == "":
				wrong.Missing = append(wrong.Missing, part.Name)
			default:
				wrong.Wrong = append(wrong.Wrong, fmt.Sprintf("%s (%s)", part.Name, problem))
			}
			told[part.Name] = true
		})
		for _, p := range e.Parts {
			used[p.Name] = true
		}
	}
	for _, info := range src.Tensors() {
		if !used[info.Name] && (ignore == nil || !ignore(info.Name)) {
			wrong.Unexpected = append(wrong.Unexpected, info.Name)
		}
	}
	if err := wrong.Err(); err != nil {
		return nil, err
	}
	return v, nil
}

// A piece is a part with its place in the tensor that it belongs to.
type piece struct {
	Part
	begin, end int64  // bytes in the result
	from       int64  // byte in the source tensor
	data       []byte // of Values
}

// addEntry adds a tensor of e's parts, or tells what is wrong with them.
func (v *view) addEntry(src Source, e Entry, tell func(Part, string)) {
	out := Info{Name: e.Name, Shape: e.Shape, DType: F32}
	var pieces []piece
	ok := true
	for _, p := range e.Parts {
		if info, found := src.Lookup(p.Name); found && p.Name != "" {
			out.DType = info.DType
			break
		}
	}
	for _, p := range e.Parts {
		at := piece{Part: p, begin: out.Size}
		if p.Name == "" {
			if at.data = encodeFloats(p.Values, out.DType); at.data == nil && len(p.Values) > 0 {
				tell(e.Parts[0], fmt.Sprintf("elements of type %s cannot be weights", out.DType))
				ok = false
				continue
			}
			out.Size += int64(len(at.data))
		} else {
			info, found := src.Lookup(p.Name)
			switch {
			case !found:
				tell(p, "")
			case !slices.Equal(info.Shape, p.Shape):
				tell(p, fmt.Sprintf("have %v, want %v", info.Shape, p.Shape))
				found = false
			case info.DType != out.DType:
				tell(p, fmt.Sprintf("have %s beside %s", info.DType, out.DType))
				found = false
			case info.DType.Size() == 0:
				tell(p, fmt.Sprintf("elements of type %s cannot be cut into rows", info.DType))
				found = false
			}
			if !found {
				ok = false
				continue
			}
			if p.From == 0 && p.To == 0 {
				out.Size += info.Size
			} else {
				row := info.Size / info.Shape[0]
				at.from = p.From * row
				out.Size += (p.To - p.From) * row
			}
		}
		at.end = out.Size
		pieces = append(pieces, at)
	}
	if !ok {
		return
	}
	if want, err := byteSize(out.DType, out.Shape); err != nil || int64(want) != out.Size {
		// The tables of this program ask for what does not add up.
		panic(fmt.Sprintf("checkpoint: entry %q: parts of %d bytes for shape %v %s", e.Name, out.Size, e.Shape,
			out.DType))
	}
	v.add(out, func(p []byte, off int64) error {
		for _, at := range pieces {
			if off >= at.end || off+int64(len(p)) <= at.begin || len(p) == 0 {
				continue
			}
			lo, hi := max(off, at.begin), min(off+int64(len(p)), at.end)
			dst := p[lo-off : hi-off]
			if at.Name == "" {
				copy(dst, at.data[lo-at.begin:])
			} else if err := src.ReadAt(dst, at.Name, at.from+lo-at.begin); err != nil {
				return err
			}
		}
		return nil
	})
}
