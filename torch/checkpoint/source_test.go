package checkpoint

import (
	"context"
	"errors"
	"io"
	"testing"
)

// A copy ends with its context, in the midst of a tensor.
func TestUntil(t *testing.T) {

	why := errors.New("enough")
	const size = 64 << 20
	big := Memory([]Tensor{{Info: Info{Name: "x", DType: U8, Shape: []int64{size}}, Data: make([]byte, size)}})
	for _, encode := range []func(io.Writer, []Tensor) error{
		func(w io.Writer, tensors []Tensor) error { return Encode(w, tensors, nil, Options{}) },
		encodePyTorch,
	} {
		if err := encode(io.Discard, From(Until(t.Context(), big))); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		n := 0
		err := encode(writerFunc(func(p []byte) (int, error) {
			if n += len(p); n > 10<<20 {
				cancel(why)
			}
			return len(p), nil
		}), From(Until(ctx, big)))
		if !errors.Is(err, why) || n > 20<<20 {
			t.Errorf("error %v after %d bytes", err, n)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
