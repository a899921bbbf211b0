package inception

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// fillRandom gives the network the weights of bench/parity/gen_goldens_inception.py.
func fillRandom(s *torch.Scope, n *Network) error {
	for i, p := range nn.List(n) {
		scale, centre := float32(0), float32(0)
		if strings.HasSuffix(p.Name, "bn.weight") || strings.HasSuffix(p.Name, "running_var") {
			centre = 1
		}
		if err := torchtest.PhiloxWeights(p.Tensor, i, scale, centre); err != nil {
			return err
		}
		if p.Tensor.Rank() == 4 {
			s.NoGrad().Copy_(p.Tensor, s.NoGrad().MulScalar(p.Tensor, 2))
		}
	}
	return nil
}

// drawnPictures are those of the generator, [N, H, W, 3].
func drawnPictures(t *testing.T, s *torch.Scope, index, n, h, w int) *torch.Tensor {
	t.Helper()
	x := s.Zeros(torch.Float32, n, 3, h, w)
	if err := torchtest.PhiloxWeights(x, index, 256, 128); err != nil {
		t.Fatal(err)
	}
	return s.Contiguous(s.Permute(s.To(x, torch.Uint8), 0, 2, 3, 1))
}

// every picks every nth number of x.
func every(s *torch.Scope, x *torch.Tensor, n int) *torch.Tensor {
	x = s.Reshape(s.Contiguous(x), -1)
	count := (x.NumElements() + n - 1) / n
	rows := make([]int64, count)
	for i := range rows {
		rows[i] = int64(i * n)
	}
	return s.IndexSelect(x, 0, torch.From(s, rows, count))
}

func lattice(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	rows := make([]int64, 0, 23)
	for i := int64(0); i < Side; i += 13 {
		rows = append(rows, i)
	}
	at := torch.From(s, rows, len(rows))
	return s.IndexSelect(s.IndexSelect(x, 2, at), 3, at)
}

func TestResizesEqualTheOriginals(t *testing.T) {
	g := torchtest.Open(t, "testdata/inception.safetensors")
	torchtest.Run(t, func(s *torch.Scope) error {
		for _, p := range []struct {
			name           string
			index, n, h, w int
		}{{"small", 1000, 2, 40, 56}, {"large", 1001, 1, 333, 310}} {
			rgb := drawnPictures(t, s, p.index, p.n, p.h, p.w)
			for _, c := range []struct {
				name string
				by   Preparation
				a, b float64 // what makes levels of the network's input
			}{{"tf", ADM, 128, 128}, {"torch", PyTorchFID, 127.5, 127.5}} {
				x := lattice(s, prepare(s, rgb, c.by))
				levels := s.AddScalar(s.MulScalar(x, c.a), c.b)
				if e := torchtest.Relative(s, levels, g.Tensor(s, p.name+"."+c.name)); !(e < 1e-6) {
					t.Errorf("%s, %s: relative error %.2g", p.name, c.name, e)
				}
			}
		}
		return nil
	})
}

// The golden is pytorch-fid's network in float64; in float32 it is itself up to 2.8e-6 from that.
func TestNetworkEqualsPytorchFID(t *testing.T) {
	const limit = 1e-5
	g := torchtest.Open(t, "testdata/inception.safetensors")
	var stride int
	g.Config("stride", &stride)
	torchtest.Run(t, func(s *torch.Scope) error {
		n := New(s)
		defer n.Close()
		if err := fillRandom(s, n); err != nil {
			return err
		}
		n.fold(s)
		s = s.NoGrad()
		check := func(what string, got, want *torch.Tensor) {
			t.Helper()
			if e := torchtest.Relative(s, got, want); !(e < limit) {
				t.Errorf("%s: relative error %.2g, want below %g", what, e, limit)
			} else {
				t.Logf("%s: %.1e", what, e)
			}
		}
		x := prepare(s, drawnPictures(t, s, 1000, 2, 40, 56), PyTorchFID)
		watched := 0
		pool, spatial := n.forward(s, x, true, func(name string, x *torch.Tensor) {
			if _, ok := g.Lookup("act." + name); ok {
				watched++
				check(name, every(s, x, stride), g.Tensor(s, "act."+name))
				check("norm of "+name, s.Norm(s.To(x, torch.Float64)), g.Tensor(s, "norm."+name))
			}
		})
		if watched != 16 {
			t.Errorf("%d parts were compared, want 16", watched)
		}
		check("pool", pool, g.Tensor(s, "pool"))
		check("spatial", spatial, g.Tensor(s, "spatial"))
		check("probabilities", n.probabilities(s, pool), g.Tensor(s, "probabilities"))
		return nil
	})
}

// save writes the weights of a network with those changed that edit changes.
func save(t *testing.T, edit func([]checkpoint.Tensor) []checkpoint.Tensor) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "inception.pth")
	torchtest.Run(t, func(s *torch.Scope) error {
		n := New(s)
		defer n.Close()
		if err := fillRandom(s, n); err != nil {
			return err
		}
		return checkpoint.WritePyTorch(path, edit(nn.State(n)))
	})
	return path
}

func TestOpen(t *testing.T) {
	path := save(t, func(list []checkpoint.Tensor) []checkpoint.Tensor {
		extra := checkpoint.Tensor{Info: checkpoint.Info{Name: "Conv2d_1a_3x3.bn.num_batches_tracked",
			DType: checkpoint.I64}, Data: make([]byte, 8)}
		return append(list, extra)
	})
	n, err := Open(path, torchtest.Device(t))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if len(n.SHA256()) != 64 {
		t.Errorf("sha256 %q", n.SHA256())
	}
	rgb := make([]uint8, 2*3*8*9)
	for i := range rgb {
		rgb[i] = uint8(i * 37)
	}
	both, err := n.Features(rgb, 2, 8, 9, ADM, Which{Spatial: true, Probabilities: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(both.Pool) != 2*PoolSize || len(both.Spatial) != 2*SpatialSize || len(both.Probabilities) != 2*NumClasses {
		t.Errorf("%d, %d, %d features", len(both.Pool), len(both.Spatial), len(both.Probabilities))
	}
	other, err := n.Features(rgb, 2, 8, 9, PyTorchFID, Which{})
	if err != nil || other.Spatial != nil || other.Probabilities != nil {
		t.Fatalf("%v, %v", other.Spatial, err)
	}
	if other.Pool[0] == both.Pool[0] {
		t.Error("both preparations give the same features")
	}
	if _, err := n.Features(rgb, 2, 8, 8, ADM, Which{}); err == nil {
		t.Error("pictures of another size passed")
	}
}

func TestOpenRefuses(t *testing.T) {
	find := func(list []checkpoint.Tensor, name string) *checkpoint.Tensor {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
		t.Fatalf("no tensor %s", name)
		return nil
	}
	for want, edit := range map[string]func([]checkpoint.Tensor) []checkpoint.Tensor{
		"torchvision's own network": func(list []checkpoint.Tensor) []checkpoint.Tensor {
			fc := find(list, "fc.weight")
			fc.Shape = []int64{1000, PoolSize}
			fc.Data = fc.Data[:4*1000*PoolSize]
			return list
		},
		"Mixed_7c.branch_pool.bn.weight": func(list []checkpoint.Tensor) []checkpoint.Tensor {
			find(list, "Mixed_7c.branch_pool.bn.weight").Name = "Mixed_7c.branch_pool.bn.scale"
			return list
		},
		"none of its tensors is called": func([]checkpoint.Tensor) []checkpoint.Tensor {
			return []checkpoint.Tensor{{Info: checkpoint.Info{Name: "pos_embed", DType: checkpoint.F32,
				Shape: []int64{1}}, Data: make([]byte, 4)}}
		},
	} {
		path := save(t, edit)
		n, err := Open(path, torchtest.Device(t))
		if err == nil {
			n.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v, want %q and the path", err, want)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none.pth"), torchtest.Device(t)); err == nil ||
		!strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing: %v", err)
	}
}

func TestAlgebra(t *testing.T) {
	g := Algebra{torchtest.Device(t)}
	product, err := g.Product([]float64{1, 2, 3, 4, 5, 6}, []float64{1, 0, 1, 0, 2, 0}, 2, 2, 3)
	if err != nil || !slices.Equal(product, []float64{4, 4, 10, 10}) {
		t.Errorf("product %v, %v", product, err)
	}
	values, err := g.SingularValues([]float64{0, 3, 0, -4, 0, 0}, 2, 3)
	if err != nil || len(values) != 2 || math.Abs(values[0]-4) > 1e-14 || math.Abs(values[1]-3) > 1e-14 {
		t.Errorf("singular values %v, %v", values, err)
	}
}
