package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ditrun/ditrun/torch/checkpoint/internal/pickle"
)

// legacyMagic begins the pickles of torch before 1.6, as a number.
const legacyMagic = pickle.Long("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")

// newLegacy reads a file of torch.save before 1.6: five pickles (magic number, protocol, machine, the
// object, the keys of storages), then the storages with their counts.
func newLegacy(r io.ReaderAt, size int64) (*File, error) {
	head := make([]byte, min(size, pickle.MaxSize))
	if err := readFull(r, head, 0); err != nil {
		return nil, err
	}
	d := pickle.NewDecoder(head)
	d.Call = callTorch
	d.Persistent = func(pickle.Tuple) (any, error) { return nil, errors.New("a storage too early") }
	if err := checkLegacyHead(d); err != nil {
		return nil, err
	}
	storages := map[string]*storage{}
	d.Persistent = func(id pickle.Tuple) (any, error) { return legacyStorage(id, storages, size) }
	root, err := d.Load()
	if err != nil {
		return nil, err
	}
	list, err := d.Load()
	if err != nil {
		return nil, err
	}
	keys, ok := list.(*pickle.List)
	if !ok || len(keys.Items) != len(storages) {
		return nil, fmt.Errorf("the list of storages does not have the %d that the tensors are on", len(storages))
	}
	if err := placeStorages(r, size, int64(d.Offset()), keys.Items, storages); err != nil {
		return nil, err
	}
	return fromObject(root, r, size, formatLegacy)
}

// checkLegacyHead reads the three pickles before the object.
func checkLegacyHead(d *pickle.Decoder) error {
	magic, err := d.Load()
	if err != nil {
		return err
	}
	if magic != legacyMagic {
		return errors.New("a pickle, but none of torch.save: want a weight file")
	}
	version, err := d.Load()
	if err != nil {
		return err
	}
	if version != int64(1001) {
		return fmt.Errorf("protocol %v of torch.save, want 1001", version)
	}
	machine, err := d.Load()
	if err != nil {
		return err
	}
	if m, ok := machine.(*pickle.Dict); !ok || m.Get("little_endian") != true {
		return errors.New("it does not say that its numbers are little-endian")
	}
	return nil
}

// legacyStorage returns the storage of a persistent id in a file of size bytes, or the view of one that the sixth
// element of the id describes.
func legacyStorage(id pickle.Tuple, known map[string]*storage, size int64) (*storage, error) {
	st, numel, err := storageID(id, known)
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
	view, ok := id[5].(pickle.Tuple) // (key, offset, size)
	if !ok || len(view) != 3 {
		return nil, fmt.Errorf("storage %.100q: its view is not one of three values", st.key)
	}
	shift, isShift := view[1].(int64)
	n, isCount := view[2].(int64)
	if !isShift || !isCount || shift < 0 || n < 0 || shift > numel || n > numel-shift {
		return nil, fmt.Errorf("storage %.100q of %d elements: a view of %v from %v on", st.key, numel, view[2],
			view[1])
	}
	return &storage{key: st.key, dtype: st.dtype, size: n * width, base: st, shift: shift * width}, nil
}

// placeStorages finds the storages in the file: one after the other from byte at on, each after its count, in the order
// of keys.
func placeStorages(r io.ReaderAt, size, at int64, keys []any, storages map[string]*storage) error {
	for _, k := range keys {
		key, _ := k.(string)
		st := storages[key]
		if st == nil || st.offset >= 0 {
			return fmt.Errorf("storage %.100q is unknown or listed twice", fmt.Sprint(k))
		}
		var count [8]byte
		if err := readFull(r, count[:], at); err != nil {
			return fmt.Errorf("storage %.100q: %w", key, err)
		}
		want := st.size / int64(st.dtype.Size())
		if n := binary.LittleEndian.Uint64(count[:]); n != uint64(want) {
			return fmt.Errorf("storage %.100q has %d elements, want %d", key, n, want)
		}
		st.offset = at + 8
		if at = st.offset + st.size; at > size {
			return fmt.Errorf("storage %.100q ends at byte %d of a file of %d", key, at, size)
		}
	}
	if at != size {
		return fmt.Errorf("%d bytes after the last storage", size-at)
	}
	return nil
}
