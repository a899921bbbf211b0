package interop

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/philox"
)

var theVAE = latents.VAE{Name: "test", SHA256: strings.Repeat("ab", 32), ScalingFactor: 0.5}

func importSet(t *testing.T, path string) *latents.Set {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out := t.TempDir()
	if _, err := s.Write(t.Context(), out,
		Import{VAE: theVAE, ImageSize: picture.Square(24), Tool: "test"}); err != nil {
		t.Fatal(err)
	}
	l, err := latents.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestImport reads what Python wrote in the manner of the originals; see bench/parity/gen_interop.py for the values.
func TestImport(t *testing.T) {
	value := func(kind, i, flip, j int) float64 { return float64((j+10*i+5*flip)%64)/16 - 2 + float64(kind)/64 }
	for path, c := range map[string]struct {
		kind  int
		flip  bool
		scale float64
		std   bool
	}{"fast-dit": {0, false, 0.5, false}, "lightningdit": {1, true, 1, false}, "edm2": {2, false, 1, true},
		"edm2.zip": {2, false, 1, true}} {
		l := importSet(t, filepath.Join("testdata", path))
		m := l.Manifest()
		if l.Len() != 5 || m.Channels != 4 || m.Height != 3 || m.Width != 2 || m.Flip != c.flip ||
			len(l.Classes()) != 3 || m.VAE != theVAE {
			t.Fatalf("%s: %+v", path, m.Plan)
		}
		x := make([]float32, 48)
		for i, label := range []int64{0, 2, 1, 2, 0} {
			if l.Label(i) != label || l.ID(i) != i {
				t.Errorf("%s: record %d: label %d, id %d", path, i, l.Label(i), l.ID(i))
			}
			for flip := range 2 {
				if flip == 1 && !c.flip {
					continue
				}
				if err := l.Read(i, flip == 1, x); err != nil {
					t.Fatal(err)
				}
				for j := range 24 {
					mean, logvar := value(c.kind, i, flip, j)/c.scale, -30.0
					if c.std {
						logvar = value(c.kind, i, 1, j)
					}
					if float64(x[j]) != mean || math.Abs(float64(x[24+j])-logvar) > 1e-6 {
						t.Fatalf("%s: record %d, view %d: moment %d is %v, %v, want %v, %v", path, i, flip, j, x[j],
							x[24+j], mean, logvar)
					}
				}
			}
		}
	}
}

// ours writes a set of 30 latents of 4 x 4 x 4.
func ours(t *testing.T, flip bool) *latents.Set {
	t.Helper()
	dir := t.TempDir()
	w, err := latents.NewWriter(dir, latents.Plan{
		Dataset:  latents.Dataset{Samples: 30, Hash: "h", Order: "position", Classes: []string{"a", "b", "c"}},
		VAE:      theVAE,
		Channels: 4, Height: 4, Width: 4, DType: checkpoint.F32, Flip: flip, ImageSize: picture.Square(32), Crop: "c",
		Decoder: "d", ShardSize: 16, Tool: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for c, err := range w.Claims(t.Context(), 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		for i := c.Lo; i < c.Hi; i++ {
			views := [2][]float32{make([]float32, 128), make([]float32, 128)}
			for v := range views {
				philox.Normals(views[v], 5, 0, uint32(v), uint64(i))
			}
			if !flip {
				views[1] = nil
			}
			if err := c.Add([]int{i}, views[0], views[1], []int64{int64(i % 3)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestThereAndBack exports and imports: what a layout keeps comes back.
func TestThereAndBack(t *testing.T) {
	l := ours(t, true)
	for _, kind := range Kinds() {
		dir := t.TempDir()
		if err := (Export{Kind: kind, Seed: 9}).ToFolder(t.Context(), l, dir); err != nil {
			t.Fatal(err)
		}
		paths := []string{dir}
		if kind == EDM2 {
			path := filepath.Join(t.TempDir(), "x.zip")
			if err := (Export{Kind: kind, Seed: 9}).ToZip(t.Context(), l, path); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, path)
		}
		for _, path := range paths {
			back := importSet(t, path)
			x, y, noise := make([]float32, 128), make([]float32, 128), make([]float32, 64)
			for i := range l.Len() {
				from := i
				if kind == FastDiT { // sorted by name: 0, 1, 10, 11, ...
					from = sorted(l.Len())[i]
				}
				if back.Label(i) != l.Label(from) {
					t.Fatalf("%s: record %d: label %d, want %d", path, i, back.Label(i), l.Label(from))
				}
				if err := l.Read(from, false, x); err != nil {
					t.Fatal(err)
				}
				if err := back.Read(i, false, y); err != nil {
					t.Fatal(err)
				}
				philox.Normals(noise, 9, philox.TagPosterior, 0, uint64(from))
				for j := range 64 {
					want, logvar := float64(x[j]), float64(x[64+j])
					if kind != EDM2 {
						want, logvar = want+math.Exp(logvar/2)*float64(noise[j]), -30
					}
					if math.Abs(float64(y[j])-want) > 1e-6*(1+math.Abs(want)) ||
						math.Abs(float64(y[64+j])-logvar) > 1e-5 {
						t.Fatalf("%s: record %d: %v, %v, want %v, %v", path, i, y[j], y[64+j], want, logvar)
					}
				}
			}
		}
	}
}

// TestWithoutFlip: LightningDiT would fail at the first mirrored view it draws.
func TestWithoutFlip(t *testing.T) {
	l := ours(t, false)
	for _, kind := range Kinds() {
		err := (Export{Kind: kind}).ToFolder(t.Context(), l, t.TempDir())
		if refused := err != nil &&
			strings.Contains(err.Error(), "encode with --flip both"); refused != (kind == LightningDiT) {
			t.Errorf("%s: error %v", kind, err)
		}
	}
}

// sorted are the numbers below n in the order of their decimal texts.
func sorted(n int) (out []int) {
	for _, first := range []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"} {
		v := int(first[0] - '0')
		if v >= n {
			continue
		}
		out = append(out, v)
		for second := range 10 {
			if w := 10*v + second; v > 0 && w < n {
				out = append(out, w)
			}
		}
	}
	return out
}

// writeArray writes a float32 array that is all value, or else 0.
func writeArray(path string, shape ...float32) error {
	value := float32(0)
	if last := len(shape) - 1; shape[last] < 0 {
		value, shape = shape[last], shape[:last]
	}
	n, dims := 1, make([]int64, len(shape))
	for i, d := range shape {
		n, dims[i] = n*int(d), int64(d)
	}
	return writeNPY(path, checkpoint.F32, dims, floatBytes(slices.Repeat([]float32{value}, n)))
}

// writeShard writes a file of LightningDiT with latents that are all value.
func writeShard(path string, labels int64, shape []int64, value float32) error {
	x := floatBytes(slices.Repeat([]float32{value}, int(shape[0]*shape[1]*shape[2]*shape[3])))
	return checkpoint.Write(path, []checkpoint.Tensor{
		{Info: checkpoint.Info{Name: "latents", DType: checkpoint.F32, Shape: shape}, Data: x},
		{Info: checkpoint.Info{Name: "latents_flip", DType: checkpoint.F32, Shape: shape}, Data: x},
		{Info: checkpoint.Info{Name: "labels", DType: checkpoint.I64, Shape: []int64{labels}},
			Data: make([]byte, 8*labels)},
	}, nil)
}

// TestHostile: what is wrong with a set is said, with the file, and nothing is taken for a set that is none.
func TestHostile(t *testing.T) {
	for _, c := range []struct {
		from   string
		change func(dir string) error
		want   string
	}{
		{"fast-dit", func(d string) error { return os.Remove(d + "/imagenet256_labels/3.npy") },
			"5 files in imagenet256_features, 4 in imagenet256_labels"},
		{"fast-dit", func(d string) error {
			return os.Rename(d+"/imagenet256_labels/3.npy", d+"/imagenet256_labels/9.npy")
		}, "imagenet256_features/3.npy and imagenet256_labels/4.npy make a pair"},
		{"fast-dit", func(d string) error { return os.Truncate(d+"/imagenet256_features/2.npy", 150) },
			"imagenet256_features/2.npy: npy: 22 bytes of data, want 96"},
		{"fast-dit", func(d string) error { return os.RemoveAll(d + "/imagenet256_labels") }, "imagenet256_labels"},
		{"fast-dit", func(d string) error {
			return os.WriteFile(d+"/imagenet256_features/2.npy", []byte("garbage garbage"), 0o666)
		}, "2.npy: npy: it does not begin as a NumPy array does"},
		{"fast-dit", func(d string) error {
			b, err := os.ReadFile(d + "/imagenet256_features/2.npy")
			if err == nil {
				copy(b[len(b)-4:], "\x00\x00\xc0\x7f")
				err = os.WriteFile(d+"/imagenet256_features/2.npy", b, 0o666)
			}
			return err
		}, "imagenet256_features/2.npy: value 23 is NaN"},
		{"lightningdit", func(d string) error { return os.Truncate(d+"/latents_rank01_shard000.safetensors", 300) },
			"latents_rank01_shard000.safetensors"},
		{"edm2", func(d string) error { return os.Remove(d + "/00000/img-mean-std-00000003.npy") },
			"4 .npy files, dataset.json has labels of 5"},
		{"edm2", func(d string) error {
			return os.Rename(d+"/00000/img-mean-std-00000003.npy", d+"/00000/img-mean-std-00000009.npy")
		}, "00000/img-mean-std-00000003.npy: no such file"},
		{"edm2", func(d string) error { return os.WriteFile(d+"/dataset.json", []byte(`{"labels": null}`), 0o666) },
			"dataset.json: no labels"},
		{"edm2", func(d string) error {
			return os.WriteFile(d+"/dataset.json", []byte("\ufeff{\"labels\": null}"), 0o666)
		}, "dataset.json: no labels"},
		{"edm2", func(d string) error { return os.WriteFile(d+"/dataset.json", []byte("\xff\xfe{\x00"), 0o666) },
			"dataset.json: text in UTF-16: want UTF-8"},
		{"edm2", func(d string) error {
			return os.WriteFile(d+"/dataset.json", []byte(`{"labels": [["../../etc/x.npy", 1]]}`), 0o666)
		}, `"../../etc/x.npy" is no path within the set`},
		{"edm2", func(d string) error {
			b, err := os.ReadFile(d + "/dataset.json")
			return errors.Join(err, os.WriteFile(d+"/dataset.json",
				bytes.Replace(b, []byte(", 2]"), []byte(", -2]"), 1), 0o666))
		}, "label -2 of record 1"},
		{"edm2", func(d string) error { return os.Remove(d + "/dataset.json") }, "no latents in it: want a folder"},
		{"fast-dit", func(d string) error { return writeArray(d+"/imagenet256_features/2.npy", 1, 4, 2, 3) },
			"2.npy: shape [1 4 2 3], that of the first record is [1 4 3 2]"},
		{"fast-dit", func(d string) error { return writeArray(d+"/imagenet256_features/0.npy", 4, 3, 2) },
			"0.npy: shape [4 3 2], want [1, channels"},
		{"fast-dit", func(d string) error { return os.Symlink("/dev/zero", d+"/imagenet256_labels/00.npy") },
			"5 files in imagenet256_features, 6 in"},
		{"fast-dit", func(d string) error {
			return errors.Join(os.Remove(d+"/imagenet256_features/0.npy"),
				os.Symlink("/dev/zero", d+"/imagenet256_features/0.npy"))
		}, "0.npy: not a file"},
		{"lightningdit", func(d string) error {
			return writeShard(d+"/latents_rank01_shard000.safetensors", 2, []int64{2, 4, 2, 3}, 0)
		}, "latents of shape [4 2 3], mirrored ones true; the first file has [4 3 2]"},
		{"lightningdit", func(d string) error {
			return writeShard(d+"/latents_rank01_shard000.safetensors", 3, []int64{2, 4, 3, 2}, 0)
		}, "labels I64 [3], want I64 [2]"},
		{"lightningdit", func(d string) error {
			return writeShard(d+"/latents_rank01_shard000.safetensors", 2, []int64{2, 4, 3, 2}, float32(math.Inf(1)))
		}, "latents_rank01_shard000.safetensors: latents of record 0: value 0 is +Inf"},
		{"edm2", func(d string) error { return writeArray(d+"/00000/img-mean-std-00000004.npy", 4, 6, 2) },
			"00000004.npy: shape [4 6 2], that of the first record is [8 3 2]"},
		{"edm2", func(d string) error { return writeArray(d+"/00000/img-mean-std-00000000.npy", 7, 3, 2) },
			"even number of channels"},
		{"edm2", func(d string) error { return writeArray(d+"/00000/img-mean-std-00000005.npy", 8, 3, 2) },
			"6 .npy files, dataset.json has labels of 5"},
		{"edm2", func(d string) error { return writeArray(d+"/00000/img-mean-std-00000001.npy", 8, 3, 2, -1) },
			"record 1: a standard deviation of -1: want 0 or more"},
		{"edm2", func(d string) error {
			return os.WriteFile(d+"/dataset.json", []byte(`{"labels": [["a.npy", 1], ["a.npy", 2]]}`), 0o666)
		}, `"a.npy" has two labels`},
	} {
		dir := filepath.Join(t.TempDir(), "set")
		if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", c.from))); err != nil {
			t.Fatal(err)
		}
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out")
		err := func() error {
			s, err := Open(t.Context(), dir)
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.Write(context.Background(), out,
				Import{VAE: theVAE, ImageSize: picture.Square(24), Tool: "test"})
			return err
		}()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.from, err, c.want)
		}
		if _, err := latents.Open(out); err == nil {
			t.Errorf("%s: %q left a set", c.from, c.want)
		}
	}
	for _, c := range []struct {
		members map[string]string
		want    string
	}{
		{map[string]string{"dataset.json": `{"labels": [["../../x.npy", 1]]}`, "../../x.npy": "x"},
			`"../../x.npy" is no path within the set`},
		{map[string]string{"dataset.json": `{"labels": [["/x.npy", 1]]}`, "/x.npy": "x"},
			`"/x.npy" is no path within the set`},
		{map[string]string{"dataset.json": `{"labels": [["x.npy", 1]]}`, "x.npy": "x", "y.npy": "y"},
			"2 .npy files, dataset.json has labels of 1"},
		{map[string]string{"dataset.json": `{"labels": [["x.npy"]]}`, "x.npy": "x"}, "label 0: want [name, number]"},
		{map[string]string{"dataset.json": `{"labels": [["x.npy", 1]]}`, "x.npy": "x"},
			"x.npy: npy: it does not begin"},
		{map[string]string{"x.npy": "x"}, "dataset.json"},
	} {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for _, name := range slices.Sorted(maps.Keys(c.members)) {
			w, err := z.Create(name)
			if err == nil {
				_, err = w.Write([]byte(c.members[name]))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "x.zip")
		for cut, want := range map[int]string{0: c.want, 5: "neither a folder nor a zip archive"} {
			if err := os.WriteFile(path, b.Bytes()[:b.Len()-cut], 0o666); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, %d bytes cut off: error %v, want %q", c.members, cut, err, want)
			}
		}
	}
	if _, err := Open(t.Context(), "interop_test.go"); err == nil ||
		!strings.Contains(err.Error(), "neither a folder nor a zip archive") {
		t.Errorf("error %v", err)
	}
}
