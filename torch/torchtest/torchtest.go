// Package torchtest is for the tests of packages that compute with torch: the device they run on,
// goldens that bench/parity made with the originals, and the measure of difference. Only tests
// import it.
package torchtest

import (
	"encoding/json"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
	_ "github.com/ditrun/ditrun/torch/keeppages" // tests and benchmarks compute in the memory that ditrun does
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/philox"
)

// OpenMP's threads spin while they wait, which takes the cores from other processes and goroutines:
// on a busy machine tests took five times as long. libtorch is opened later, so it reads this.
func init() {
	if os.Getenv("OMP_WAIT_POLICY") == "" {
		os.Setenv("OMP_WAIT_POLICY", "passive")
	}
}

// Device returns the device that tests run on: the one named by DITRUN_TEST_DEVICE, by default the
// CPU. A device that cannot be used skips the test with the reason; missing libtorch fails it.
func Device(t testing.TB) torch.Device {
	t.Helper()
	if err := torch.Available(); err != nil {
		t.Fatal(err)
	}
	name := os.Getenv("DITRUN_TEST_DEVICE")
	if name == "" {
		return torch.CPU
	}
	dev, err := torch.ParseDevice(name)
	if err != nil {
		t.Skipf("DITRUN_TEST_DEVICE: %v", err)
	}
	return dev
}

// Run runs f in a scope on [Device] and fails the test with f's error.
func Run(t testing.TB, f func(s *torch.Scope) error) {
	t.Helper()
	if err := torch.Run(Device(t), f); err != nil {
		t.Fatal(err)
	}
}

// OnGPU returns gpu where tests run on a GPU, else cpu: limits of differences, each of which has a reason of its own.
func OnGPU(t testing.TB, gpu, cpu float64) float64 {
	t.Helper()
	if Device(t).IsCUDA() {
		return gpu
	}
	return cpu
}

// Goldens is an open golden file. Its methods fail the test where something is missing.
type Goldens struct {
	*checkpoint.File
	t testing.TB
}

// Open opens a golden file, which the end of the test closes.
func Open(t testing.TB, path string) *Goldens {
	t.Helper()
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &Goldens{f, t}
}

// Config reads the part called key of the JSON that the file's metadata holds as "config".
func (g *Goldens) Config(key string, v any) {
	g.t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(g.Metadata()["config"]), &all); err != nil {
		g.t.Fatalf("%s: config: %v", g.Path(), err)
	}
	if err := json.Unmarshal(all[key], v); err != nil {
		g.t.Fatalf("%s: config %q: %v", g.Path(), key, err)
	}
}

// Tensor copies the tensor called name to the scope's device, in the type that the file has.
func (g *Goldens) Tensor(s *torch.Scope, name string) *torch.Tensor {
	g.t.Helper()
	info, ok := g.Lookup(name)
	if !ok {
		g.t.Fatalf("%s: no golden %q", g.Path(), name)
	}
	data, err := g.Read(name)
	if err != nil {
		g.t.Fatal(err)
	}
	dt, ok := nn.DType(info.DType)
	if !ok {
		g.t.Fatalf("%s: %q: the binding has no type %s", g.Path(), name, info.DType)
	}
	shape := make([]int, len(info.Shape))
	for i, d := range info.Shape {
		shape[i] = int(d)
	}
	return s.FromBytes(dt, data, shape...)
}

// Prefix returns the tensors whose names start with p, under their names without it.
func (g *Goldens) Prefix(p string) checkpoint.Source { return namemap.Section(g.File, p) }

// Scalar returns a Float64 of one element, such as the learning rate of a step.
func Scalar(s *torch.Scope, v float64) *torch.Tensor { return s.Full(v, torch.Float64) }

// Normal returns standard normals, Float32 [n, row...]: those of samples 0 to n-1 in a draw of package philox.
func Normal(s *torch.Scope, seed uint64, n int, row ...int) *torch.Tensor {
	return s.PhiloxNormal(seed, philox.TagStartNoise, s.Zeros(torch.Int64, 1), s.Arange(n, torch.Int64), row...)
}

// PhiloxWeights fills the Float32 tensor t, number n of a state dict, with random numbers that are a
// function of n alone, as bench/parity/philox_weights.py does: for weights that are too large to check in.
// scale 0 is that of a weight of t's shape; centre is added.
func PhiloxWeights(t *torch.Tensor, n int, scale, centre float32) error {
	if scale == 0 {
		scale = 0.25
		if t.Rank() > 1 {
			fanIn := t.NumElements() / t.Dim(0)
			scale = float32(math.Pow(2, 1-math.Floor(math.Log2(float64(fanIn))/2)))
		}
	}
	return t.Fill(func(p []byte, off int64) error {
		out := unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(p))), len(p)/4)
		first := int(off / 4)
		var wg sync.WaitGroup
		workers := runtime.GOMAXPROCS(0)
		share := (len(out) + workers) / workers
		for lo := 0; lo < len(out); lo += share {
			wg.Go(func() {
				for i := lo; i < min(lo+share, len(out)); {
					words := philox.Block(0, uint32((first+i)/4), philox.TagWeights, 0, uint64(n))
					for _, w := range words[(first+i)%4:] {
						if i == min(lo+share, len(out)) {
							break
						}
						out[i] = (float32(w>>8)*0x1p-24-0.5)*scale + centre
						i++
					}
				}
			})
		}
		wg.Wait()
		return nil
	})
}

// Relative returns the norm of got - want over the norm of want, in Float64: infinite where the
// shapes differ or got is nil, NaN where got holds one, so accept a result only by Relative < limit.
func Relative(s *torch.Scope, got, want *torch.Tensor) float64 {
	if got == nil || !slices.Equal(got.Shape(), want.Shape()) {
		return math.Inf(1)
	}
	var diff, norm float64
	s.NoGrad().Sub(func(s *torch.Scope) *torch.Tensor {
		w := s.To(want, torch.Float64)
		diff = s.Norm(s.Subtract(s.To(got, torch.Float64), w)).Item()
		norm = s.Norm(w).Item()
		return nil
	})
	return diff / max(norm, 1e-30)
}
