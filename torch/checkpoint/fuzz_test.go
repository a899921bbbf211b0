package checkpoint

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzPyTorch opens whatever it is given as a file of torch.save, new or old, and reads every tensor.
func FuzzPyTorch(f *testing.F) {
	for _, pattern := range []string{"testdata/pytorch/*.pt", "testdata/lpips/*.pth"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
			// Its pickle alone: the target puts it into an archive.
			if records, err := readZip(bytes.NewReader(data), int64(len(data))); err == nil {
				for name, r := range records {
					if filepath.Base(name) == "data.pkl" {
						f.Add(data[r.offset : r.offset+r.size])
					}
				}
			}
		}
	}
	f.Add(ptOf("\x80\x02}."))
	f.Add(ptOf("\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00}\x94."))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, read := range []func(*bytes.Reader) (*File, error){
			func(r *bytes.Reader) (*File, error) { return newPyTorch(r, r.Size()) },
			func(r *bytes.Reader) (*File, error) { return newLegacy(r, r.Size()) },
			// The pickle alone, so that mutations need not keep an archive whole.
			func(r *bytes.Reader) (*File, error) {
				return newPyTorch(bytes.NewReader(ptOf(string(data))), int64(len(ptOf(string(data)))))
			},
		} {
			if file, err := read(bytes.NewReader(data)); err == nil {
				readAll(t, file, len(data))
			}
		}
	})
}

func readAll(t *testing.T, f *File, size int) {
	total := 0
	for _, info := range f.Tensors() {
		if got := info.NumElements() * int64(info.DType.Size()); got != info.Size {
			t.Fatalf("%s: %d bytes for %v %s", info.Name, info.Size, info.Shape, info.DType)
		}
		if total += int(info.Size); total > 1<<24 {
			return
		}
		if _, err := f.Read(info.Name); err != nil {
			t.Fatalf("%s: %v, though the file opened", info.Name, err)
		}
	}
}
