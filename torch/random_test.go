package torch_test

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The C++ twin draws the integers of package philox; its logarithm and cosine may differ in the last
// bits, hence 1e-6.
func TestPhiloxEqualsGo(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		for _, c := range []struct {
			seed    uint64
			tag     uint32
			step    int64
			indices []int64
			row     []int
		}{
			{0, philox.TagStartNoise, 0, []int64{0}, []int{4}},
			{1<<63 + 5, philox.TagStepNoise, 249, []int64{3, 1 << 40, 0}, []int{4, 32, 32}},
			{42, philox.TagPosterior, philox.MaxStep, []int64{7, 7}, []int{3, 5}}, // not a multiple of four
			{42, philox.TagPosterior, 1, []int64{9}, []int{1}},
			{42, philox.TagPosterior, 1, []int64{9, 10}, nil},
		} {
			step, indices := torch.From(s, []int64{c.step}, 1), torch.From(s, c.indices, len(c.indices))
			x := s.PhiloxNormal(c.seed, c.tag, step, indices, c.row...)
			u := s.PhiloxUniform(c.seed, c.tag, step, indices)
			row := x.NumElements() / len(c.indices)
			got, uniforms, want := torch.Data[float32](x), torch.Data[float64](u), make([]float32, row)
			for i, index := range c.indices {
				if u, w := uniforms[i], philox.Uniform(c.seed, c.tag, uint32(c.step), uint64(index)); u != w {
					t.Errorf("seed %d tag %d step %d index %d: uniform %v, want %v", c.seed, c.tag, c.step, index, u, w)
				}
				philox.Normals(want, c.seed, c.tag, uint32(c.step), uint64(index))
				for j, w := range want {
					if d := math.Abs(float64(got[i*row+j] - w)); !(d <= 1e-6) {
						t.Fatalf("seed %d tag %d step %d index %d element %d: %v, want %v", c.seed, c.tag, c.step,
							index, j, got[i*row+j], w)
					}
				}
			}
		}
		step, none := s.Zeros(torch.Int64, 1), s.Zeros(torch.Int64, 0)
		if x, u := s.PhiloxNormal(1, 0, step, none, 3), s.PhiloxUniform(1, 0, step, none); x.NumElements() != 0 ||
			u.NumElements() != 0 {
			t.Errorf("no indices gave %v and %v", x, u)
		}
		return nil
	})
}

// Uniform_ draws the numbers of libtorch's uniform_, which draws those of a tensor that is not row-major, and leaves
// the generator where that leaves it: whatever was drawn before, and whatever comes next.
func TestUniformEqualsLibtorch(t *testing.T) {
	const chunk = 16 * 624 // of the shim
	sizes := []int{chunk - 2, chunk - 1, chunk, chunk + 1, chunk + 623, chunk + 624, chunk + 625, 3 * chunk,
		9*chunk + 77}
	for n := range 101 {
		sizes = append(sizes, n)
	}
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		s = s.NoGrad()
		for i, n := range sizes {
			for _, before := range []int{0, 1, 624, 3*chunk + i} {
				var drawn [2][]byte
				for k := range drawn {
					gen, err := torch.NewGenerator(torch.CPU, uint64(i))
					if err != nil {
						return err
					}
					s.Uniform_(strided(s, k == 1, before), gen, -1, 1)
					x := strided(s, k == 1, n)
					s.Uniform_(x, gen, -0.0713, 0.0713)
					odd := strided(s, k == 1, n)
					s.Uniform_(odd, gen, -1e5, 1e5)
					next, normal := s.Empty(torch.Float32, 5), s.Empty(torch.Float32, 37)
					s.Uniform_(next, gen, 0, 1)
					s.Normal_(normal, gen, 0, 1)
					for _, y := range []*torch.Tensor{x, odd, next, normal} {
						drawn[k] = append(drawn[k], s.Contiguous(y).Bytes()...)
					}
				}
				if !bytes.Equal(drawn[0], drawn[1]) {
					t.Fatalf("%d numbers after %d others differ from libtorch's", n, before)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// strided makes a tensor of n elements, where gaps is set one with gaps between them.
func strided(s *torch.Scope, gaps bool, n int) *torch.Tensor {
	if !gaps {
		return s.Empty(torch.Float32, n)
	}
	return s.Select(s.Empty(torch.Float32, n, 2), 1, 0)
}

// The noise of one sample is bit-equal alone and in any batch, large enough for several threads.
func TestPhiloxNormalRowsAreIndependent(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		indices := make([]int64, 64)
		for i := range indices {
			indices[i] = int64(1000 - i)
		}
		draw := func(seed uint64, tag uint32, step int64, indices []int64) *torch.Tensor {
			return s.PhiloxNormal(seed, tag, torch.From(s, []int64{step}, 1), torch.From(s, indices, len(indices)),
				4, 16, 16)
		}
		all := draw(3, philox.TagStartNoise, 5, indices)
		for _, i := range []int{0, 1, 31, 63} {
			alone := draw(3, philox.TagStartNoise, 5, indices[i:i+1])
			if !bytes.Equal(alone.Bytes(), s.Narrow(all, 0, i, 1).Bytes()) {
				t.Errorf("row %d differs alone and in the batch", i)
			}
		}
		if bytes.Equal(s.Select(all, 0, 0).Bytes(), s.Select(all, 0, 1).Bytes()) {
			t.Error("two rows are equal")
		}
		for name, other := range map[string]*torch.Tensor{
			"seed": draw(4, philox.TagStartNoise, 5, indices),
			"tag":  draw(3, philox.TagStepNoise, 5, indices),
			"step": draw(3, philox.TagStartNoise, 6, indices),
		} {
			if bytes.Equal(other.Bytes(), all.Bytes()) {
				t.Errorf("another %s gives the same noise", name)
			}
		}
		const limit = 6.0 / 256 // six standard errors of 65536 draws
		if m, d := s.Mean(all).Item(), s.Std(all).Item(); math.Abs(m) > limit || math.Abs(d-1) > limit {
			t.Errorf("mean %v, standard deviation %v", m, d)
		}
		return nil
	})
}

// What training and sampling make of uniforms on the device equals what package philox makes of the same words.
func TestPhiloxUniformsBecomeIntegersAndChances(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		const n, below, p = 5000, 1000, 0.1
		u := s.PhiloxUniform(9, philox.TagTimestep, s.Zeros(torch.Int64), s.Arange(n, torch.Int64))
		integers := torch.Data[int64](s.To(s.MulScalar(u, below), torch.Int64))
		chances := s.LtScalar(u, p).Bytes()
		for i := range n {
			if want := philox.Intn(below, 9, philox.TagTimestep, 0, uint64(i)); integers[i] != int64(want) {
				t.Fatalf("integer %d is %d, want %d", i, integers[i], want)
			}
			if want := philox.Uniform(9, philox.TagTimestep, 0, uint64(i)) < p; (chances[i] == 1) != want {
				t.Fatalf("chance %d is %d, want %t", i, chances[i], want)
			}
		}
		return nil
	})
}

func TestPhiloxRefusesBadNames(t *testing.T) {
	for name, c := range map[string]struct {
		tag     uint32
		step    []int64
		indices []int
		message string
	}{
		"a step too large": {0, []int64{1 << 24}, []int{2}, "step 16777216, want 0 to 16777215"},
		"a step below 0":   {0, []int64{-1}, []int{2}, "step -1, want 0 to 16777215"},
		"two steps":        {0, []int64{1, 2}, []int{2}, "step is Long [2] on cpu, want one int64 on cpu"},
		"a tag too large":  {256, []int64{1}, []int{2}, "tag 256, want one below 256"},
		"indices in rows":  {0, []int64{1}, []int{2, 1}, "indices are Long [2, 1], want int64 [N]"},
	} {
		t.Run(name, func(t *testing.T) {
			torchtest.Run(t, func(s *torch.Scope) error {
				_, noKernels := torch.PluginStatus(s.Device())
				if noKernels == nil && strings.Contains(name, " step ") {
					t.Skip("kernels cannot refuse a step")
				}
				step, indices := torch.From(s, c.step, len(c.step)), s.Zeros(torch.Int64, c.indices...)
				for _, draw := range []func(){
					func() { s.PhiloxNormal(1, c.tag, step, indices, 3) },
					func() { s.PhiloxUniform(1, c.tag, step, indices) },
				} {
					err := s.Try(func(*torch.Scope) error { draw(); return nil })
					if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "cuda:0", "cpu"), c.message) {
						t.Errorf("%v, want an error with %q", err, c.message)
					}
				}
				return nil
			})
		})
	}
}

// A captured draw reads its step when it is replayed.
func TestPhiloxInACapture(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		if _, why := torch.PluginStatus(s.Device()); s.Device().IsCUDA() && why != nil {
			t.Skip("without kernels the draws are computed on the host: ", why)
		}
		step, indices := torch.Persist(s.Zeros(torch.Int64, 1)), torch.Persist(s.Arange(3, torch.Int64))
		defer step.Close()
		defer indices.Close()
		draw := func(s *torch.Scope) []*torch.Tensor {
			return []*torch.Tensor{s.PhiloxNormal(1, philox.TagStepNoise, step, indices, 5),
				s.PhiloxUniform(1, philox.TagStepNoise, step, indices)}
		}
		draw(s)
		g := s.Capture(draw)
		defer g.Close()
		for k := range byte(3) {
			step.CopyFromBytes([]byte{k, 0, 0, 0, 0, 0, 0, 0})
			g.Replay()
			for i, x := range draw(s) {
				if !bytes.Equal(g.Results()[i].Bytes(), x.Bytes()) {
					t.Errorf("step %d, result %d differs", k, i)
				}
			}
		}
		return nil
	})
}
