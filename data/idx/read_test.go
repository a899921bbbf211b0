package idx

import (
	"bytes"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

func FuzzRead(f *testing.F) {
	four := append([]byte{0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, 3}, make([]byte, 4*2*3)...)
	f.Add(four)
	f.Add(datatest.Gzip(f, four))
	f.Add(four[:20])
	f.Add([]byte{0, 0, 8, 3, 128, 0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		dims, elements, err := Read(bytes.NewReader(b), int64(len(b)), Images, 1<<20)
		if err == nil && (len(dims) != 3 || len(elements) != dims[0]*dims[1]*dims[2] || len(elements) > 1032*len(b)) {
			t.Errorf("dimensions %v, %d elements from %d bytes", dims, len(elements), len(b))
		}
	})
}
