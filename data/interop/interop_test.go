package interop

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/philox"
)

var theVAE = data.VAE{Name: "test", SHA256: strings.Repeat("ab", 32), ScalingFactor: 0.5}

func importSet(t *testing.T, path string) *data.Latents {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out := t.TempDir()
	if _, err := s.Write(t.Context(), out, Import{VAE: theVAE, ImageSize: 24, Tool: "test"}); err != nil {
		t.Fatal(err)
	}
	l, err := data.OpenLatents(out)
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
	}{"fast-dit": {0, false, 0.5, false}, "lightningdit": {1, true, 1, false}, "edm2": {2, false, 1, true}, "edm2.zip": {2, false, 1, true}} {
		l := importSet(t, filepath.Join("testdata", path))
		m := l.Manifest()
		if l.Len() != 5 || m.Channels != 4 || m.Height != 3 || m.Width != 2 || m.Flip != c.flip || len(l.Classes()) != 3 || m.VAE != theVAE {
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
						t.Fatalf("%s: record %d, view %d: moment %d is %v, %v, want %v, %v", path, i, flip, j, x[j], x[24+j], mean, logvar)
					}
				}
			}
		}
	}
}

// ours writes a set of 30 latents of 4 x 4 x 4.
func ours(t *testing.T) *data.Latents {
	t.Helper()
	dir := t.TempDir()
	w, err := data.NewShardWriter(dir, data.Plan{
		Dataset: data.Dataset{Samples: 30, Hash: "h", Order: "position", Classes: []string{"a", "b", "c"}}, VAE: theVAE,
		Channels: 4, Height: 4, Width: 4, DType: checkpoint.F32, Flip: true, ImageSize: 32, Crop: "c", Decoder: "d", ShardSize: 16, Tool: "test"})
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
	l, err := data.OpenLatents(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestThereAndBack exports and imports: what a layout keeps comes back.
func TestThereAndBack(t *testing.T) {
	l := ours(t)
	for _, kind := range Kinds() {
		dir := t.TempDir()
		if err := (Export{Kind: kind, Seed: 9}).ToFolder(t.Context(), l, dir); err != nil {
			t.Fatal(err)
		}
		paths := []string{dir}
		if kind == EDM2 {
			zip := filepath.Join(t.TempDir(), "x.zip")
			if err := (Export{Kind: kind, Seed: 9}).ToZip(t.Context(), l, zip); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, zip)
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
					if math.Abs(float64(y[j])-want) > 1e-6*(1+math.Abs(want)) || math.Abs(float64(y[64+j])-logvar) > 1e-5 {
						t.Fatalf("%s: record %d: %v, %v, want %v, %v", path, i, y[j], y[64+j], want, logvar)
					}
				}
			}
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

// TestHostile: what is wrong with a set is said, with the file, and nothing is taken for a set that is none.
func TestHostile(t *testing.T) {
	for _, c := range []struct {
		from   string
		change func(dir string) error
		want   string
	}{
		{"fast-dit", func(d string) error { return os.Remove(d + "/imagenet256_labels/3.npy") }, "5 files in imagenet256_features, 4 in imagenet256_labels"},
		{"fast-dit", func(d string) error {
			return os.Rename(d+"/imagenet256_labels/3.npy", d+"/imagenet256_labels/9.npy")
		}, "imagenet256_features/3.npy and imagenet256_labels/4.npy make a pair"},
		{"fast-dit", func(d string) error { return os.Truncate(d+"/imagenet256_features/2.npy", 150) }, "imagenet256_features/2.npy: npy: 22 bytes of data, want 96"},
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
		{"lightningdit", func(d string) error { return os.Truncate(d+"/latents_rank01_shard000.safetensors", 300) }, "latents_rank01_shard000.safetensors"},
		{"edm2", func(d string) error { return os.Remove(d + "/00000/img-mean-std-00000003.npy") }, "img-mean-std-00000003.npy"},
		{"edm2", func(d string) error { return os.WriteFile(d+"/dataset.json", []byte(`{"labels": null}`), 0o666) }, "dataset.json: no labels"},
		{"edm2", func(d string) error {
			return os.WriteFile(d+"/dataset.json", []byte(`{"labels": [["../../etc/x.npy", 1]]}`), 0o666)
		}, `"../../etc/x.npy" is no path within the set`},
		{"edm2", func(d string) error {
			return os.WriteFile(d+"/dataset.json", []byte(`{"labels": [["00000/img-mean-std-00000000.npy", -1]]}`), 0o666)
		}, "label -1 of record 0"},
		{"edm2", func(d string) error { return os.Remove(d + "/dataset.json") }, "no latents in it: want a folder"},
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
			s, err := Open(dir)
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.Write(context.Background(), out, Import{VAE: theVAE, ImageSize: 24, Tool: "test"})
			return err
		}()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.from, err, c.want)
		}
		if _, err := data.OpenLatents(out); err == nil {
			t.Errorf("%s: %q left a set", c.from, c.want)
		}
	}
	if _, err := Open("interop_test.go"); err == nil || !strings.Contains(err.Error(), "neither a folder nor a zip archive") {
		t.Errorf("error %v", err)
	}
}
