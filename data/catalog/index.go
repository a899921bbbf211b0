package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ditrun/ditrun/data/labels"
	"github.com/ditrun/ditrun/data/store"
	"github.com/ditrun/ditrun/internal/disk"
)

// savedIndex is a catalogue of archives as it is kept in the cache, by columns.
type savedIndex struct {
	Classes         []string
	Names           string // a line each
	Labels, Files   []int32
	Offsets, Length []int64
	Notes           []string
	Unlabelled      bool
}

// indexKey identifies what a catalogue was made from.
func indexKey(set *store.Set, labelFile *labels.File, noClasses bool) string {
	h := sha256.New()
	fmt.Fprintln(h, "ditrun index 3")
	for i := range set.Objects {
		fmt.Fprintln(h, cacheKey("index", set, &set.Objects[i]))
	}
	if labelFile != nil {
		io.WriteString(h, labelFile.Text())
	}
	if noClasses {
		fmt.Fprintln(h, "no classes")
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// loadIndex returns the catalogue that was saved for the same archives, nil if there is none that fits.
func loadIndex(dir, key string, files []container, sizes []int64) *catalogue {
	b, err := os.ReadFile(filepath.Join(dir, key))
	if err != nil {
		return nil
	}
	var s savedIndex
	if gob.NewDecoder(bytes.NewReader(b)).Decode(&s) != nil {
		return nil
	}
	n := len(s.Labels)
	names := strings.Split(s.Names, "\n")
	if n == 0 || len(names) != n || len(s.Files) != n || len(s.Offsets) != n || len(s.Length) != n {
		return nil
	}
	entries := make([]entry, n)
	for i := range entries {
		e := entry{names[i], s.Labels[i], s.Files[i], s.Offsets[i], s.Length[i]}
		if e.label < 0 || int(e.label) >= len(s.Classes) || e.file < 0 || int(e.file) >= len(files) || e.offset < 0 ||
			e.length < 0 || e.offset > sizes[e.file]-e.length {
			return nil
		}
		entries[i] = e
	}
	c := newCatalogue(files, entries, s.Classes)
	c.notes, c.unlabelled = s.Notes, s.Unlabelled
	return c
}

// saveIndex keeps a catalogue for the next time.
func (c *catalogue) saveIndex(dir, key string) error {
	s := savedIndex{Classes: c.classes, Notes: c.notes, Unlabelled: c.unlabelled}
	names := make([]string, len(c.entries))
	for i, e := range c.entries {
		if strings.Contains(e.name, "\n") {
			return nil
		}
		names[i] = e.name
		s.Labels = append(s.Labels, e.label)
		s.Files = append(s.Files, e.file)
		s.Offsets = append(s.Offsets, e.offset)
		s.Length = append(s.Length, e.length)
	}
	s.Names = strings.Join(names, "\n")
	path := filepath.Join(dir, key)
	disk.Sweep(path)
	return disk.WriteFile(path, func(w io.Writer) error { return gob.NewEncoder(w).Encode(&s) })
}
