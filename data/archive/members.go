package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
)

// A Member lies beside the pictures that share its key.
type Member struct {
	Pictures []int
	Kind     string // what its name ends in behind the key, such as txt
	Name     string
	Content  []byte
}

// Members calls found with the members of a WebDataset archive whose kind is wanted, wherever those of a sample are in
// it. Pictures has the number of each picture by its offset. A member of more than maxBytes is an error.
func Members(ctx context.Context, r io.ReaderAt, pictures map[int64]int, wanted func(kind string) bool, maxBytes int64,
	found func(Member) error) error {
	section := io.NewSectionReader(r, 0, math.MaxInt64)
	t := tar.NewReader(section)
	byKey := map[string][]int{}
	var keys []string // by member
	var members []Member
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		key := SampleKey(name)
		offset, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if i, ok := pictures[offset]; ok {
			byKey[key] = append(byKey[key], i)
			continue
		}
		kind := strings.TrimPrefix(strings.TrimPrefix(name, key), ".")
		if !wanted(kind) {
			continue
		}
		if h.Size > maxBytes {
			return fmt.Errorf("%s: %d bytes: want at most %d", name, h.Size, maxBytes)
		}
		content := make([]byte, h.Size)
		if _, err := io.ReadFull(t, content); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		keys = append(keys, key)
		members = append(members, Member{Kind: kind, Name: name, Content: content})
	}
	for i, m := range members {
		m.Pictures = byKey[keys[i]]
		if err := found(m); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}
