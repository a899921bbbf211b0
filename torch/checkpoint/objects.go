package checkpoint

import (
	"errors"
	"fmt"
	"io"

	"github.com/ditrun/ditrun/torch/checkpoint/internal/pickle"
)

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
	case *pickle.Dict, *pickle.List, pickle.Tuple, *strided, *pickle.Namespace:
	default:
		return nil, fmt.Errorf("it holds a %s, want a state dict: if this is a whole model, save model.state_dict()",
			pickle.KindOf(root))
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
	case *strided:
		return fl.tensor(name, v)
	case *pickle.Dict:
		for i, k := range v.Keys {
			if err := child(k, v.Values[i]); err != nil {
				return err
			}
		}
	case *pickle.Namespace:
		for i, k := range v.Dict.Keys {
			if err := child(k, v.Dict.Values[i]); err != nil {
				return err
			}
		}
	case *pickle.List:
		for i, item := range v.Items {
			if err := child(int64(i), item); err != nil {
				return err
			}
		}
	case pickle.Tuple:
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

func (fl *flattener) tensor(name string, t *strided) error {
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
