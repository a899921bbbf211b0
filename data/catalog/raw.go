package catalog

import (
	"context"

	"github.com/ditrun/ditrun/data/picture"
)

// RawSource is what a [Source] may be beside: one that gives the bytes of its pictures apart from decoding them.
// Those who read many pictures then use their memory again, and read ahead what takes long to come.
type RawSource interface {
	Source
	// Remote says that reading a picture is a request to another machine, of which many should be under way at once.
	Remote() bool
	// Bytes reads the file of sample i into buf, which it may replace by a larger one. Its errors are those of Image.
	Bytes(i int, buf []byte) ([]byte, error)
	// Decode overwrites img with the picture of sample i, whose file is b, when there is memory for it. Done is to be
	// called after the last use of the picture.
	Decode(ctx context.Context, img *picture.Image, i int, b []byte) (done func(), err error)
}

// Raw returns the RawSource that src is or, after [Without], is a part of, nil if there is none, and what the id of
// sample i is there.
func Raw(src Source) (raw RawSource, id func(i int) int) {
	id = func(i int) int { return i }
	for part, ok := src.(*remainder); ok; part, ok = src.(*remainder) {
		inner, part := id, part
		src, id = part.Source, func(i int) int { return part.id(inner(i)) }
	}
	raw, _ = src.(RawSource)
	return raw, id
}
