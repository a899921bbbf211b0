package torch_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// The C++ twin draws the integers of package philox; its logarithm and cosine may differ in the last
// bits, hence 1e-6.
func TestPhiloxNormalEqualsGo(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		for _, c := range []struct {
			seed      uint64
			tag, step uint32
			indices   []int64
			row       []int
		}{
			{0, philox.TagStartNoise, 0, []int64{0}, []int{4}},
			{1<<63 + 5, philox.TagStepNoise, 249, []int64{3, 1 << 40, 0}, []int{4, 32, 32}},
			{42, philox.TagPosterior, philox.MaxStep, []int64{7, 7}, []int{3, 5}}, // not a multiple of four
			{42, philox.TagPosterior, 1, []int64{9}, []int{1}},
			{42, philox.TagPosterior, 1, []int64{9, 10}, nil},
		} {
			x := s.PhiloxNormal(c.seed, c.tag, c.step, c.indices, c.row...)
			row := x.NumElements() / len(c.indices)
			got, want := torch.Data[float32](x), make([]float32, row)
			for i, index := range c.indices {
				philox.Normals(want, c.seed, c.tag, c.step, uint64(index))
				for j, w := range want {
					if d := math.Abs(float64(got[i*row+j] - w)); !(d <= 1e-6) {
						t.Fatalf("seed %d tag %d step %d index %d element %d: %v, want %v", c.seed, c.tag, c.step,
							index, j, got[i*row+j], w)
					}
				}
			}
		}
		if x := s.PhiloxNormal(1, 0, 0, nil, 3); x.NumElements() != 0 {
			t.Errorf("no indices gave %v", x)
		}
		return nil
	})
}

// The noise of one sample is bit-equal alone and in any batch, large enough for several threads.
func TestPhiloxNormalRowsAreIndependent(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		indices := make([]int64, 64)
		for i := range indices {
			indices[i] = int64(1000 - i)
		}
		all := s.PhiloxNormal(3, philox.TagStartNoise, 5, indices, 4, 16, 16)
		for _, i := range []int{0, 1, 31, 63} {
			alone := s.PhiloxNormal(3, philox.TagStartNoise, 5, indices[i:i+1], 4, 16, 16)
			if !bytes.Equal(alone.Bytes(), s.Narrow(all, 0, i, 1).Bytes()) {
				t.Errorf("row %d differs alone and in the batch", i)
			}
		}
		if bytes.Equal(s.Select(all, 0, 0).Bytes(), s.Select(all, 0, 1).Bytes()) {
			t.Error("two rows are equal")
		}
		for name, other := range map[string]*torch.Tensor{
			"seed": s.PhiloxNormal(4, philox.TagStartNoise, 5, indices, 4, 16, 16),
			"tag":  s.PhiloxNormal(3, philox.TagStepNoise, 5, indices, 4, 16, 16),
			"step": s.PhiloxNormal(3, philox.TagStartNoise, 6, indices, 4, 16, 16),
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
