// Package namemap shows the tensors of a file under the names that a model has for them.
//
// [Models] finds a model in a file, whatever programs wrote before and inside its names. [Map] makes tensors of other
// names and shapes by a table of entries, each of which takes whole tensors or rows of them; a model package keeps such
// tables for the files of other programs. Nothing is copied: what these functions return reads the source.
package namemap

import (
	"fmt"
	"slices"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

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

// Values is the part that these numbers make.
func Values(values []float32) Part { return Part{Values: values} }

// Whole is the part that a tensor of this name and shape makes.
func Whole(name string, shape ...int64) Part { return Part{Name: name, Shape: shape} }

// Map makes a source of other names and shapes. What is missing in src, of another shape than a part
// wants, or not used by any part is a [Mismatch]; names for which ignore (if not nil) is true may be
// left over.
func Map(src checkpoint.Source, entries []Entry, ignore func(name string) bool) (checkpoint.Source, error) {
	var wrong checkpoint.Mismatch
	used, reported := map[string]bool{}, map[string]bool{}
	v := newView(src, len(entries))
	for _, e := range entries {
		v.addEntry(src, e, func(part Part, problem string) {
			switch {
			case reported[part.Name]:
			case problem == "":
				wrong.Missing = append(wrong.Missing, part.Name)
			default:
				wrong.Wrong = append(wrong.Wrong, fmt.Sprintf("%s (%s)", part.Name, problem))
			}
			reported[part.Name] = true
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

// addEntry adds a tensor of e's parts, or reports what is wrong with them.
func (v *view) addEntry(src checkpoint.Source, e Entry, report func(Part, string)) {
	out := checkpoint.Info{Name: e.Name, Shape: e.Shape, DType: checkpoint.F32}
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
			if at.data = checkpoint.EncodeFloats(p.Values, out.DType); at.data == nil && len(p.Values) > 0 {
				report(e.Parts[0], fmt.Sprintf("elements of type %s cannot be weights", out.DType))
				ok = false
				continue
			}
			out.Size += int64(len(at.data))
		} else {
			info, found := src.Lookup(p.Name)
			switch {
			case !found:
				report(p, "")
			case !slices.Equal(info.Shape, p.Shape):
				report(p, fmt.Sprintf("have %v, want %v", info.Shape, p.Shape))
				found = false
			case info.DType != out.DType:
				report(p, fmt.Sprintf("have %s beside %s", info.DType, out.DType))
				found = false
			case info.DType.Size() == 0:
				report(p, fmt.Sprintf("elements of type %s cannot be cut into rows", info.DType))
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
	if out.NumElements()*int64(out.DType.Bits()) != 8*out.Size {
		// The tables of this program ask for what does not add up.
		panic(fmt.Sprintf("namemap: entry %q: parts of %d bytes for shape %v %s", e.Name, out.Size, e.Shape,
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
