package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/torch/checkpoint/internal/pickle"
)

// A Value is a leaf of a pickled object that is no tensor: nil, a bool, int64, float64 or string.
type Value struct {
	Name  string // the keys that lead to it, joined by dots
	Value any
}

// Names of formats, as [File.Format] gives them.
const (
	formatSafetensors = "safetensors"
	formatPyTorch     = "PyTorch"
	formatLegacy      = "PyTorch, legacy"
)

// newPyTorch reads a file of torch.save: a zip archive with a pickle and the storages.
func newPyTorch(r io.ReaderAt, size int64) (*File, error) {
	records, err := readZip(r, size)
	if err != nil {
		return nil, err
	}
	folder := ""
	for name := range records {
		if dir, base, ok := strings.Cut(name, "/"); ok && base == "data.pkl" {
			if folder != "" {
				return nil, errors.New("two records are called data.pkl")
			}
			folder = dir + "/"
		}
	}
	if folder == "" {
		return nil, errors.New("a zip archive without data.pkl: want a file of torch.save")
	}
	for _, name := range slices.Sorted(maps.Keys(records)) { // the same error each time
		inside, ok := strings.CutPrefix(name, folder)
		switch {
		case !ok:
			return nil, fmt.Errorf("record %.100q lies outside the folder %.100q", name, folder)
		case inside == "constants.pkl" || strings.HasPrefix(inside, "code/"):
			return nil, errors.New("a TorchScript program, not weights: save the state dict instead")
		}
	}
	small := func(name string, most int64) ([]byte, error) {
		rec, ok := records[folder+name]
		if !ok {
			return nil, nil
		}
		if rec.size > most {
			return nil, fmt.Errorf("record %s of %d bytes, at most %d allowed", name, rec.size, most)
		}
		b := make([]byte, rec.size)
		return b, readFull(r, b, rec.offset)
	}
	if order, err := small("byteorder", 16); err != nil {
		return nil, err
	} else if order != nil && string(order) != "little" {
		return nil, fmt.Errorf("byte order %q, want little", order)
	}
	text, err := small("data.pkl", pickle.MaxSize)
	if err != nil {
		return nil, err
	}
	storages := map[string]*storage{}
	d := pickle.NewDecoder(text)
	d.Call = callTorch
	d.Persistent = func(id pickle.Tuple) (any, error) {
		st, numel, err := storageID(id, storages)
		if err != nil {
			return nil, err
		}
		rec, ok := records[folder+"data/"+st.key]
		if !ok {
			return nil, fmt.Errorf("record data/%.100s is missing", st.key)
		}
		if want := numel * max(1, int64(st.dtype.Size())); rec.size != want {
			return nil, fmt.Errorf("record data/%s has %d bytes, want %d", st.key, rec.size, want)
		}
		st.size, st.offset = rec.size, rec.offset
		return st, nil
	}
	root, err := d.Load()
	if err != nil {
		return nil, err
	}
	if left := len(text) - d.Offset(); left > 0 {
		return nil, fmt.Errorf("%d bytes after the pickle", left)
	}
	return fromObject(root, r, size, formatPyTorch)
}

// storageID reads a persistent id: ('storage', class, key, location, numel), and in legacy files a
// sixth element. The same key gives the same storage.
func storageID(id pickle.Tuple, known map[string]*storage) (*storage, int64, error) {
	if len(id) < 5 || id[0] != "storage" {
		return nil, 0, errors.New("a persistent id that is no storage")
	}
	class, _ := id[1].(pickle.Global)
	kind, ok := strings.CutPrefix(string(class), "torch.storage.")
	if !ok {
		kind = strings.TrimPrefix(string(class), "torch.")
	}
	dtype, ok := storageTypes[kind]
	if !ok {
		return nil, 0, fmt.Errorf("storage of class %.100s is not supported", pickle.KindOf(id[1]))
	}
	key, ok := id[2].(string)
	if !ok || key == "" {
		return nil, 0, errors.New("a storage whose key is no string")
	}
	numel, ok := id[4].(int64)
	if !ok || numel < 0 || numel > 1<<50 {
		return nil, 0, fmt.Errorf("storage %.100q of %v elements", key, id[4])
	}
	st := known[key]
	if st == nil {
		st = &storage{key: key, dtype: dtype, offset: -1}
		known[key] = st
	} else if st.dtype != dtype {
		return nil, 0, fmt.Errorf("storage %.100q is both %s and %s", key, st.dtype, dtype)
	}
	return st, numel, nil
}
