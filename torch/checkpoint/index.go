package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

const (
	maxIndex  = 16 << 20
	maxShards = 4096
)

// newIndex opens the shards that an index (*.index.json) names: {"weight_map": {tensor: file}}. They
// are in its folder. Tensors of a shard that the index does not list there are left out.
func newIndex(r io.ReaderAt, size int64, path string) (f *File, err error) {
	if size > maxIndex {
		return nil, fmt.Errorf("JSON of %d bytes, an index has at most %d", size, maxIndex)
	}
	text := make([]byte, size)
	if err := readFull(r, text, 0); err != nil {
		return nil, err
	}
	if text, err = disk.PlainText(text); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	tensors, where, err := weightMap(text)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	shards := map[string]*File{}
	f = &File{index: map[string]int{}}
	var opened closers
	f.closer = &opened
	defer func() {
		if err != nil {
			opened.Close()
		}
	}()
	for _, name := range tensors {
		file := where[name]
		shard := shards[file]
		if shard == nil {
			if len(shards) == maxShards {
				return nil, fmt.Errorf("index: more than %d files", maxShards)
			}
			shard, err = open(filepath.Join(filepath.Dir(path), file), true, func(r io.ReaderAt, size int64) (*File,
				error) {
				return sniff(r, size, "")
			})
			if err != nil {
				return nil, err
			}
			opened = append(opened, shard)
			shards[file] = shard
		}
		info, ok := shard.Lookup(name)
		if !ok {
			return nil, fmt.Errorf("index: tensor %.100q is not in %s", name, file)
		}
		info.Offset = -1
		f.add(info, func(p []byte, off int64) error { return shard.ReadAt(p, name, off) })
	}
	if len(opened) == 0 {
		return nil, errors.New("index: no tensors")
	}
	for _, shard := range opened {
		if f.meta == nil {
			f.meta = shard.meta
		}
	}
	f.parts = opened
	f.format = opened[0].format + " in " + names.Plural(len(opened), "file")
	return f, nil
}

type closers []*File

func (c *closers) Close() error {
	var errs []error
	for _, f := range *c {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// weightMap reads the index. Names are returned in their order.
func weightMap(text []byte) (names []string, where map[string]string, err error) {
	if !utf8.Valid(text) {
		return nil, nil, errors.New("it is not valid UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	where = map[string]string{}
	seen := map[string]bool{}
	err = object(d, func(key string) error {
		if seen[key] || len(seen) == maxEntries {
			return fmt.Errorf("two entries %.100q, or too many", key)
		}
		seen[key] = true
		if key != "weight_map" {
			var skip json.RawMessage
			return d.Decode(&skip)
		}
		return object(d, func(name string) error {
			var file string
			if err := d.Decode(&file); err != nil {
				return err
			}
			if file == "" || file != filepath.Base(file) || strings.ContainsAny(file, "/\\\x00") || file == "." ||
				file == ".." || strings.HasSuffix(file, ".json") {
				return fmt.Errorf("file name %.100q: want a weight file in the same folder", file)
			}
			if _, twice := where[name]; twice {
				return fmt.Errorf("tensor %.100q is there twice", name)
			}
			if len(where) == maxEntries {
				return fmt.Errorf("more than %d tensors", maxEntries)
			}
			where[name] = file
			names = append(names, name)
			return nil
		})
	})
	if err == nil && d.More() {
		err = errors.New("text after the object")
	}
	if err == nil && len(names) == 0 {
		err = errors.New("it has no weight_map: want the index of a sharded model")
	}
	slices.Sort(names)
	return names, where, err
}

// object reads a JSON object key by key; value reads the value.
func object(d *json.Decoder, value func(key string) error) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if t != json.Delim('{') {
		return fmt.Errorf("found %v, want an object", t)
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return fmt.Errorf("found %v, want a name", t)
		}
		if err := value(key); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}
