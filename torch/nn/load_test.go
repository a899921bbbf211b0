package nn_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
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

// memory is a source of weights in memory.
type memory []checkpoint.Tensor

func (m memory) Tensors() (out []checkpoint.Info) {
	for _, t := range m {
		out = append(out, t.Info)
	}
	return out
}

func (m memory) find(name string) int {
	return slices.IndexFunc(m, func(t checkpoint.Tensor) bool { return t.Name == name })
}

func (m memory) Lookup(name string) (checkpoint.Info, bool) {
	if i := m.find(name); i >= 0 {
		return m[i].Info, true
	}
	return checkpoint.Info{}, false
}

func (m memory) ReadAt(p []byte, name string, off int64) error {
	if copy(p, m[m.find(name)].Data[off:]) < len(p) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (m memory) Verify() error { return nil }

// filled returns a model of random weights.
func filled(t *testing.T, s *torch.Scope, seed uint64) *model {
	m := newModel(t, s)
	gen, err := torch.NewGenerator(torch.CPU, seed)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range nn.Params(m) {
		nn.Normal(s, gen, p, 1)
	}
	return m
}

func sameWeights(t *testing.T, a, b any) {
	t.Helper()
	as, bs := nn.State(a), nn.State(b)
	for i := range as {
		if as[i].Name != bs[i].Name || !bytes.Equal(as[i].Data, bs[i].Data) {
			t.Errorf("%s differs", as[i].Name)
		}
	}
}

func TestLoadOfSaveIsBitEqual(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m, other := filled(t, s, 1), filled(t, s, 2)
		path := filepath.Join(t.TempDir(), "model.safetensors")
		if err := checkpoint.Write(path, nn.State(m), nil); err != nil {
			return err
		}
		f, err := checkpoint.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		live := torch.Live()
		if err := nn.Load(s, other, f, false); err != nil {
			return err
		}
		if torch.Live() != live {
			t.Errorf("Load left %d tensors", torch.Live()-live)
		}
		sameWeights(t, m, other)
		for _, p := range nn.List(other) {
			if p.Tensor.RequiresGrad() == p.Buffer {
				t.Errorf("%s: requires grad changed to %v", p.Name, !p.Buffer)
			}
		}
		return nil
	})
}

func TestLoadReportsEverythingAndChangesNothing(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m, before := filled(t, s, 1), filled(t, s, 1)
		src := memory(nn.State(filled(t, s, 2)))
		src = append(src[2:], checkpoint.Tensor{Info: checkpoint.Info{Name: "x.one", DType: "F32"}},
			checkpoint.Tensor{Info: checkpoint.Info{Name: "x.two", DType: "F32"}})
		src[src.find("list.0")].Shape = []int64{2, 2}
		src[src.find("list.1")].DType = "C64"
		err := nn.Load(s, m, src, false)
		if err == nil {
			t.Fatal("no error")
		}
		for _, part := range []string{
			"2 missing: pos_embed, blocks.0.attn.proj.weight;",
			"2 of another shape or type: list.0 (have [2 2], want [4]), list.1 (dtype C64",
			"2 unexpected: x.one, x.two",
		} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
		sameWeights(t, m, before)

		err = nn.Load(s, m, src, true)
		if err == nil || strings.Contains(err.Error(), "unexpected") || !strings.Contains(err.Error(), "2 missing") {
			t.Errorf("with extra names ignored: %v", err)
		}

		var many memory
		for i := range 40 {
			many = append(many, checkpoint.Tensor{Info: checkpoint.Info{Name: fmt.Sprint("t", i), DType: "F32"}})
		}
		err = nn.Load(s, m, many, false)
		if err == nil || !strings.Contains(err.Error(), "40 unexpected: t0, t1, ") ||
			!strings.Contains(err.Error(), "t11 and 28 more") {
			t.Errorf("a long list: %v", err)
		}
		return nil
	})
}

func TestLoadNamesTheDamagedTensor(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m := newModel(t, s)
		src := memory(nn.State(m))
		src[3].Data = src[3].Data[1:]
		if err := nn.Load(s, m, src, false); err == nil || !strings.Contains(err.Error(), src[3].Name) {
			t.Errorf("got %v, want an error about %s", err, src[3].Name)
		}
		return nil
	})
}

func TestLoadConvertsTypes(t *testing.T) {
	encode := func(v any) []byte {
		var b bytes.Buffer
		binary.Write(&b, binary.LittleEndian, v)
		return b.Bytes()
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		for dtype, data := range map[checkpoint.DType][]byte{
			"F32":  encode([]float32{1.5, -2}),
			"F64":  encode([]float64{1.5, -2}),
			"F16":  encode([]uint16{0x3e00, 0xc000}),
			"BF16": encode([]uint16{0x3fc0, 0xc000}),
		} {
			m := &struct {
				W *torch.Tensor `dit:"w"`
			}{nn.Parameter(s, 2)}
			err := nn.Load(s, m, memory{{Info: checkpoint.Info{Name: "w", DType: dtype, Shape: []int64{2}},
				Data: data}}, false)
			if err != nil {
				t.Errorf("%s: %v", dtype, err)
			}
			if got := torch.Data[float32](m.W); !slices.Equal(got, []float32{1.5, -2}) {
				t.Errorf("%s: got %v", dtype, got)
			}
			nn.Close(m)
		}
		// Saved in the type that it has.
		for dt, name := range map[torch.DType]checkpoint.DType{torch.BFloat16: "BF16", torch.Float16: "F16",
			torch.Float64: "F64", torch.Int64: "I64"} {
			got := nn.Snapshot([]nn.Param{{Name: "x", Tensor: s.Ones(dt, 2, 1)}})[0]
			if got.DType != name || !slices.Equal(got.Shape, []int64{2, 1}) || len(got.Data) != 2*dt.Size() {
				t.Errorf("%v is saved as %s %v, %d bytes", dt, got.DType, got.Shape, len(got.Data))
			}
		}
		return nil
	})
}

func near(t *testing.T, what string, x *torch.Tensor, want ...float32) {
	t.Helper()
	got := torch.Data[float32](x)
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if !(math.Abs(float64(got[i]-want[i])) < 1e-6) {
			t.Errorf("%s: got %v, want %v", what, got, want)
			return
		}
	}
}
