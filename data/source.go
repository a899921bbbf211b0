package data

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Sample describes one picture of a source.
type Sample struct {
	Name  string // canonical name within its class, the same wherever the data set is stored
	Label int    // index into Classes
}

// Source is a catalogue of labelled pictures. The sample id is the index: samples are ordered by label first, so
// the same data set has the same ids on every machine. All methods may be called from several goroutines at once.
type Source interface {
	// Len returns the number of samples.
	Len() int
	// Classes returns the class names, indexed by label.
	Classes() []string
	// Sample describes sample i, 0 <= i < Len().
	Sample(i int) Sample
	// Image decodes sample i at its full size. The caller owns the result. The error names the sample.
	Image(i int) (*Image, error)
	// Order says what the ids are sorted by.
	Order() string
	// Hash identifies the catalogue: the hex SHA-256 over names, labels and lengths.
	Hash() string
	// Close releases the source; it must not be used afterwards.
	Close() error
}

// Open opens the pictures at path: a folder with IDX files of the MNIST family (plain or gzip; the train split
// where there are several, see OpenIDX), one IDX image file, or a tree of class folders (see OpenFolder). What it is
// is told by content.
func Open(path string) (Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, openError(path, err)
	}
	if !info.IsDir() {
		return OpenIDX(path, "")
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, openError(path, err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("open %s: empty: %s", path, wanted)
	}
	if _, err := os.Stat(filepath.Join(path, ManifestName)); err == nil {
		return nil, fmt.Errorf("open %s: holds encoded latents (%s), want pictures", path, ManifestName)
	}
	if hasIDX(path, entries) {
		return OpenIDX(path, "")
	}
	return OpenFolder(path)
}

const wanted = "want class folders with pictures (jpg, png, ...) or IDX files (train-images-idx3-ubyte)"

// openError words the failure to open path without repeating it.
func openError(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) && pe.Path == path {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("open %s: no such file or folder%w", path, quiet{err})
		}
		err = pe.Err
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// quiet carries an error for errors.Is without adding to the text.
type quiet struct{ error }

func (quiet) Error() string   { return "" }
func (q quiet) Unwrap() error { return q.error }

// hashCatalogue is Source.Hash for n samples; content, if any, is added at the end.
func hashCatalogue(n int, sample func(i int) (s Sample, length int64), content []byte) string {
	h := sha256.New()
	var line []byte
	for i := range n {
		s, length := sample(i)
		line = append(line[:0], s.Name...)
		line = append(line, 0)
		line = strconv.AppendInt(line, int64(s.Label), 10)
		line = append(line, 0)
		line = strconv.AppendInt(line, length, 10)
		line = append(line, '\n')
		h.Write(line)
	}
	h.Write(content)
	return hex.EncodeToString(h.Sum(nil))
}
