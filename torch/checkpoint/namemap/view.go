package namemap

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A view presents tensors of sources under other names, shapes and orders.
type view struct {
	infos []checkpoint.Info
	index map[string]int
	read  []func(p []byte, off int64) error // as infos
	of    checkpoint.Source
}

func newView(of checkpoint.Source, n int) *view {
	return &view{make([]checkpoint.Info, 0, n), make(map[string]int, n), make([]func([]byte, int64) error, 0, n), of}
}

// add appends a tensor; its Offset becomes -1, since a view has no place in a file.
func (v *view) add(info checkpoint.Info, read func(p []byte, off int64) error) {
	info.Offset = -1
	v.index[info.Name] = len(v.infos)
	v.infos = append(v.infos, info)
	v.read = append(v.read, read)
}

// Verify implements [checkpoint.Source].
func (v *view) Verify() error {
	return v.of.Verify()
}

// Tensors implements [checkpoint.Source].
func (v *view) Tensors() []checkpoint.Info { return slices.Clone(v.infos) }

// Lookup implements [checkpoint.Source].
func (v *view) Lookup(name string) (checkpoint.Info, bool) {
	i, ok := v.index[name]
	if !ok {
		return checkpoint.Info{}, false
	}
	return v.infos[i], true
}

// ReadAt implements [checkpoint.Source].
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
func Section(src checkpoint.Source, prefix string) checkpoint.Source {
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
