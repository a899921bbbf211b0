package catalog

import (
	"context"
	"os"
	"path/filepath"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/disk"
)

// Sample describes one picture of a source.
type Sample struct {
	Name  string // canonical name within its class, the same wherever the data set is stored
	Label int    // index into Classes
}

// Source is a catalogue of labelled pictures. The sample id is the index: samples are ordered by label first, so
// the same data set has the same ids on every machine and in every container. All methods may be called from several
// goroutines at once.
type Source interface {
	// Len returns the number of samples.
	Len() int
	// Classes returns the class names, indexed by label: text, in which bytes that are not UTF-8 are written as \xNN.
	Classes() []string
	// Sample describes sample i, 0 <= i < Len().
	Sample(i int) Sample
	// Image decodes sample i at its full size. The caller owns the result. The error names the sample; for a picture
	// that cannot be decoded it is a BadPicture.
	Image(i int) (*picture.Image, error)
	// Order says what the ids are sorted by.
	Order() string
	// Hash identifies the catalogue: the hex SHA-256 over names, labels and lengths.
	Hash() string
	// Notes are remarks for the user, such as which of several parts was opened.
	Notes() []string
	// Close releases the source; it must not be used afterwards.
	Close() error
}

// Options of Open. The zero value is fine.
type Options struct {
	// Labels is a file with the classes of pictures that are in no class folders: one class name a line for the
	// pictures in order of their names, or lines of file name and class name, separated by commas, tabs or blanks.
	Labels string
	// NoClasses takes all pictures of the set together, those in no class folder too, as if they had no classes. The
	// classes are then those of classes.Unnamed. Where every picture has a class the ids and the hash stay the same.
	NoClasses bool
	// CacheDir is where the indices of archives are kept and compressed archives are unpacked; "" means ditrun in the
	// user's folder for caches.
	CacheDir string
	// OnProgress, which may be nil, is called with the progress of a stage of opening, by several goroutines.
	OnProgress func(stage string, done, total int64)
	// DecodeMemory is how many bytes all decoders may use together; 0 means a gigabyte. A picture that needs more is
	// decoded alone.
	DecodeMemory int64
	// Orientation of the pictures; "" means AsStored.
	Orientation picture.Orientation
}

func (o *Options) progress(stage string, done, total int64) {
	if o.OnProgress != nil {
		o.OnProgress(stage, done, total)
	}
}

// cacheFolder makes a folder in the cache.
func (o *Options) cacheFolder(name string) (string, error) {
	dir := o.CacheDir
	if dir == "" {
		var err error
		if dir, err = disk.CacheDir(); err != nil {
			return "", err
		}
	}
	dir = filepath.Join(dir, name)
	return dir, os.MkdirAll(dir, 0o777)
}

// RawSource is a [Source] that also gives the bytes of its pictures without decoding them. Readers of many pictures
// can then reuse memory, and read ahead from slow storage.
type RawSource interface {
	Source
	// Remote says that each picture is a request to another machine, so that many should be under way at once.
	Remote() bool
	// Bytes reads the file of sample i into buf, which it may replace by a larger one. Its errors are those of Image.
	Bytes(i int, buf []byte) ([]byte, error)
	// Decode waits until there is memory to decode sample i, and overwrites img with it; b is its file. Call done after
	// the last use of the picture.
	Decode(ctx context.Context, img *picture.Image, i int, b []byte) (done func(), err error)
}

// Raw returns src as a RawSource, nil if it is none. A source that [Without] made is looked through: id returns what
// the id of sample i is in raw.
func Raw(src Source) (raw RawSource, id func(i int) int) {
	id = func(i int) int { return i }
	for part, ok := src.(*remainder); ok; part, ok = src.(*remainder) {
		inner, part := id, part
		src, id = part.Source, func(i int) int { return part.id(inner(i)) }
	}
	raw, _ = src.(RawSource)
	return raw, id
}
