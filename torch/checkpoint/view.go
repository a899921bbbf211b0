package checkpoint

import (
	"fmt"
	"slices"
	"strings"
)

// A view presents tensors of sources under other names, shapes and orders.
type view struct {
	infos []Info
	index map[string]int
	read  []func(p []byte, off int64) error // as infos
	of    Source
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
	if err := v.infos[i].CheckRange(len(p), off); err != nil {
		return err
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
