package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
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
	text, err := small("data.pkl", maxPickle)
	if err != nil {
		return nil, err
	}
	storages := map[string]*storage{}
	u := &unpickler{b: text, persistent: func(id pickleTuple) (any, error) {
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
	}}
	root, err := u.load()
	if err != nil {
		return nil, err
	}
	if u.i != len(u.b) {
		return nil, fmt.Errorf("%d bytes after the pickle", len(u.b)-u.i)
	}
	return fromObject(root, r, size, formatPyTorch)
}

// storageID reads a persistent id: ('storage', class, key, location, numel), and in legacy files a
// sixth element. The same key gives the same storage.
func storageID(id pickleTuple, known map[string]*storage) (*storage, int64, error) {
	if len(id) < 5 || id[0] != "storage" {
		return nil, 0, errors.New("a persistent id that is no storage")
	}
	class, _ := id[1].(pickleGlobal)
	kind, ok := strings.CutPrefix(string(class), "torch.storage.")
	if !ok {
		kind = strings.TrimPrefix(string(class), "torch.")
	}
	dtype, ok := storageTypes[kind]
	if !ok {
		return nil, 0, fmt.Errorf("storage of class %.100s is not supported", kindOf(id[1]))
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

// legacyMagic begins the pickles of torch before 1.6, as a number.
const legacyMagic = pickleLong("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")

// newLegacy reads a file of torch.save before 1.6: five pickles (magic number, protocol, machine, the
// object, the keys of storages), then the storages with their counts.
func newLegacy(r io.ReaderAt, size int64) (*File, error) {
	head := make([]byte, min(size, maxPickle))
	if err := readFull(r, head, 0); err != nil {
		return nil, err
	}
	storages := map[string]*storage{}
	u := &unpickler{b: head,
		persistent: func(pickleTuple) (any, error) { return nil, errors.New("a storage too early") }}
	magic, err := u.load()
	if err != nil {
		return nil, err
	}
	if magic != legacyMagic {
		return nil, errors.New("a pickle, but none of torch.save: want a weight file")
	}
	if version, err := u.load(); err != nil {
		return nil, err
	} else if version != int64(1001) {
		return nil, fmt.Errorf("protocol %v of torch.save, want 1001", version)
	}
	machine, err := u.load()
	if err != nil {
		return nil, err
	}
	if d, ok := machine.(*pickleDict); !ok || d.get("little_endian") != true {
		return nil, errors.New("it does not say that its numbers are little-endian")
	}
	u.persistent = func(id pickleTuple) (any, error) {
		st, numel, err := storageID(id, storages)
		if err != nil {
			return nil, err
		}
		if st.dtype == "" {
			return nil, fmt.Errorf("storage %.100q is untyped", st.key)
		}
		width := int64(st.dtype.Size())
		if numel > size/width {
			return nil, fmt.Errorf("storage %.100q of %d elements in a file of %d bytes", st.key, numel, size)
		}
		if st.counted && st.size != numel*width {
			return nil, fmt.Errorf("storage %.100q has both %d and %d elements", st.key, st.size/width, numel)
		}
		st.size, st.counted = numel*width, true
		if len(id) < 6 || id[5] == nil {
			return st, nil
		}
		view, ok := id[5].(pickleTuple) // (key, offset, size)
		if !ok || len(view) != 3 {
			return nil, fmt.Errorf("storage %.100q: a view that is none", st.key)
		}
		shift, ok := view[1].(int64)
		n, also := view[2].(int64)
		if !ok || !also || shift < 0 || n < 0 || shift > numel || n > numel-shift {
			return nil, fmt.Errorf("storage %.100q of %d elements: a view of %v from %v on", st.key, numel, view[2],
				view[1])
		}
		return &storage{key: st.key, dtype: st.dtype, size: n * width, base: st, shift: shift * width}, nil
	}
	root, err := u.load()
	if err != nil {
		return nil, err
	}
	list, err := u.load()
	if err != nil {
		return nil, err
	}
	keys, ok := list.(*pickleList)
	if !ok || len(keys.items) != len(storages) {
		return nil, fmt.Errorf("the list of storages does not have the %d that the tensors are on", len(storages))
	}
	at := int64(u.i)
	for _, k := range keys.items {
		key, _ := k.(string)
		st := storages[key]
		if st == nil || st.offset >= 0 {
			return nil, fmt.Errorf("storage %.100q is unknown or listed twice", fmt.Sprint(k))
		}
		var count [8]byte
		if err := readFull(r, count[:], at); err != nil {
			return nil, fmt.Errorf("storage %.100q: %w", key, err)
		}
		if n := binary.LittleEndian.Uint64(count[:]); n != uint64(st.size/int64(st.dtype.Size())) {
			return nil, fmt.Errorf("storage %.100q has %d elements, want %d", key, n, st.size/int64(st.dtype.Size()))
		}
		st.offset = at + 8
		if at = st.offset + st.size; at > size {
			return nil, fmt.Errorf("storage %.100q ends at byte %d of a file of %d", key, at, size)
		}
	}
	if at != size {
		return nil, fmt.Errorf("%d bytes after the last storage", size-at)
	}
	return fromObject(root, r, size, formatLegacy)
}

// Limits on what is made of a pickled object, whose parts may be shared: read as a tree it can be far
// larger than its pickle.
const (
	maxDepth  = 32
	maxLeaves = maxEntries
	maxNames  = 16 << 20 // bytes
)

// fromObject lists the tensors and values of an object under the keys that lead to them.
func fromObject(root any, r io.ReaderAt, size int64, format string) (*File, error) {
	fl := &flattener{file: &File{format: format, index: map[string]int{}}, r: r, size: size, seen: map[string]bool{}}
	switch root.(type) {
	case *pickleDict, *pickleList, pickleTuple, *pickleTensor, *pickleNamespace:
	default:
		return nil, fmt.Errorf("it holds a %s, want a state dict: if this is a whole model, save model.state_dict()",
			kindOf(root))
	}
	if err := fl.walk("", root, 0); err != nil {
		return nil, err
	}
	return fl.file, nil
}

type flattener struct {
	file          *File
	r             io.ReaderAt
	size          int64
	seen          map[string]bool
	visits, names int
	bytes         uint64 // of all tensors
}

func (fl *flattener) walk(name string, v any, depth int) error {
	if fl.visits++; fl.visits > maxLeaves || depth > maxDepth || fl.names > maxNames {
		return errors.New("the objects are nested too deeply, or too many")
	}
	child := func(key any, value any) error {
		if fl.visits > maxLeaves {
			return errors.New("too many objects")
		}
		k := ""
		switch key := key.(type) {
		case string:
			k = key
		case int64:
			k = fmt.Sprint(key)
		default:
			fl.visits++
			return nil // an object as a key: of callbacks and the like, no weights
		}
		if name != "" {
			k = name + "." + k
		}
		fl.names += len(k)
		return fl.walk(k, value, depth+1)
	}
	switch v := v.(type) {
	case *pickleTensor:
		return fl.tensor(name, v)
	case *pickleDict:
		for i, k := range v.keys {
			if err := child(k, v.values[i]); err != nil {
				return err
			}
		}
	case *pickleNamespace:
		for i, k := range v.dict.keys {
			if err := child(k, v.dict.values[i]); err != nil {
				return err
			}
		}
	case *pickleList:
		for i, item := range v.items {
			if err := child(int64(i), item); err != nil {
				return err
			}
		}
	case pickleTuple:
		for i, item := range v {
			if err := child(int64(i), item); err != nil {
				return err
			}
		}
	case nil, bool, int64, float64, string:
		fl.file.values = append(fl.file.values, Value{name, v})
	}
	return nil
}

// Tensors may repeat elements of their storage and share it. All of them together are at most this many
// times the file, and a little more for small files.
const (
	maxExpansion = 16
	freeBytes    = 1 << 20
)

func (fl *flattener) tensor(name string, t *pickleTensor) error {
	if fl.seen[name] {
		return fmt.Errorf("two tensors are called %.100q", name)
	}
	fl.seen[name] = true
	n, err := byteSize(t.dtype, t.shape)
	if err != nil {
		return fmt.Errorf("tensor %.100q: %w", name, err)
	}
	limit := maxExpansion*uint64(fl.size) + freeBytes
	if n > limit || fl.bytes > limit-n {
		return fmt.Errorf("tensor %.100q: %d bytes, beside %d of others, made of a file of %d", name, n, fl.bytes,
			fl.size)
	}
	fl.bytes += n
	info := Info{Name: name, DType: t.dtype, Shape: t.shape, Offset: -1, Size: int64(n)}
	read := func(p []byte, at int64) error { return readFull(fl.r, p, at) }
	at := t.place()
	if at < 0 || n > 0 && at >= fl.size {
		return fmt.Errorf("tensor %.100q lies at byte %d of a file of %d", name, at, fl.size)
	}
	if t.contiguous() {
		info.Offset = at
		fl.file.add(info, func(p []byte, off int64) error { return read(p, at+off) })
	} else {
		fl.file.add(info, func(p []byte, off int64) error { return t.gather(p, off, read) })
	}
	return nil
}

// sniff reads a file whatever its format is. An index needs the path, for its folder; without one it is
// refused.
func sniff(r io.ReaderAt, size int64, path string) (*File, error) {
	head := make([]byte, min(size, 512))
	if err := readFull(r, head, 0); err != nil {
		return nil, err
	}
	// The length of a safetensors header can look like the beginning of any other format, so it is
	// looked at first.
	isHeader := len(head) > 8 && head[8] == '{' && binary.LittleEndian.Uint64(head) <= uint64(size-8)
	isJSON := bytes.HasPrefix(head, []byte("{")) || bytes.HasPrefix(head, []byte("\ufeff{")) // with a byte order mark
	switch {
	case isHeader:
		return newSafetensors(r, size)
	case bytes.HasPrefix(head, []byte("PK")):
		return newPyTorch(r, size)
	case len(head) > 1 && head[0] == 0x80 && head[1] <= 5:
		return newLegacy(r, size)
	case len(head) > 262 && string(head[257:262]) == "ustar":
		return nil, errors.New("a tar file, the format of torch before 0.1.10: load it in Python and save it again")
	case isJSON && path == "":
		return nil, errors.New("an index, where a file of weights was expected")
	case isJSON:
		return newIndex(r, size, path)
	case len(head) > 8 && head[8] != '{':
		return nil, errors.New("neither safetensors nor a file of torch.save nor the index of a sharded model")
	}
	return newSafetensors(r, size)
}
