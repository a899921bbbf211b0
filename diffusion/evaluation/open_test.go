package evaluation

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

func npy(t testing.TB, dtype checkpoint.DType, size int, shape ...int64) []byte {
	t.Helper()
	var b bytes.Buffer
	err := numpy.EncodeNPY(&b, checkpoint.Tensor{Info: checkpoint.Info{DType: dtype, Shape: shape},
		Data: make([]byte, size)})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func npz(t testing.TB, members map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, content := range members {
		w, err := z.Create(name + ".npy")
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A file of any bytes is an error or a set that agrees with itself, whatever its name says it is.
func FuzzOpen(f *testing.F) {
	f.Add(npy(f, checkpoint.F32, 24, 2, 3))
	f.Add(npz(f, map[string][]byte{"arr_0": npy(f, checkpoint.U8, 12, 1, 2, 2, 3)}))
	f.Add(npz(f, map[string][]byte{"mu": npy(f, checkpoint.F64, 16, 2), "sigma": npy(f, checkpoint.F64, 32, 2, 2)}))
	f.Add([]byte("8\x00\x00\x00\x00\x00\x00\x00" + `{"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}` +
		"\x00\x00\x80?"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, ext := range []string{".npz", ".npy", ".safetensors"} {
			path := filepath.Join(dir, "x"+ext)
			if err := os.WriteFile(path, b, 0o666); err != nil {
				t.Fatal(err)
			}
			s, err := Open(t.Context(), path, OpenOptions{})
			if err != nil {
				continue
			}
			for kind, rows := range s.features {
				if rows.Check() != nil || rows.N != s.info.Count {
					t.Errorf("%s: %s [%d, %d] of %d pictures", ext, kind, rows.N, rows.D, s.info.Count)
				}
			}
			for kind, st := range s.statistics {
				if len(st.cov) != len(st.mean)*len(st.mean) {
					t.Errorf("%s: %s: %d and %d numbers", ext, kind, len(st.mean), len(st.cov))
				}
			}
			if s.pictures != nil {
				for {
					rgb, n, err := s.pictures.next(t.Context(), 2)
					if err != nil || n == 0 {
						break
					}
					if len(rgb) != 3*n*s.pictures.size().Pixels() {
						t.Errorf("%d bytes of %d pictures", len(rgb), n)
					}
				}
			}
			s.Close()
		}
	})
}
