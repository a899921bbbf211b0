package training

import (
	"strings"
	"testing"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Ten steps under each kind of block are the same with fused operations and with libtorch's alone: with those of the
// device that tests run on, and with the kernels of a GPU, which the emulator runs.
func TestTenStepsWithAndWithoutFusion(t *testing.T) {
	defer torch.SetFused(true)
	g := torchtest.Open(t, goldens+"train.safetensors")
	for _, block := range dit.BlockKinds() {
		t.Run(block.String(), func(t *testing.T) {
			torch.SetFused(false)
			want := tenStepsOf(t, g, block)
			torch.SetFused(true)
			want.compare(t, "fused", tenStepsOf(t, g, block))
			if !torchtest.Device(t).IsCUDA() {
				torchtest.Emulate(t)
				want.compare(t, "by kernels", tenStepsOf(t, g, block))
			}
		})
	}
}

// What ten steps gave: the terms of each, and in the end the weights.
type tenStepsResult struct {
	terms   [4][]float32
	names   []string
	weights [][]float32
}

// tenStepsOf trains a model with another block on the batches of the golden file, from weights that use all of it.
func tenStepsOf(t *testing.T, g *torchtest.Goldens, block dit.BlockKind) (r tenStepsResult) {
	t.Helper()
	torchtest.Run(t, func(s *torch.Scope) error {
		run := goldenRunnerOf(t, s, g, block)
		for i, p := range nn.List(run.model) {
			if !p.Tensor.RequiresGrad() {
				continue
			}
			centre := float32(0)
			if strings.Contains(p.Name, "norm") && strings.HasSuffix(p.Name, "weight") {
				centre = 1
			}
			if err := torchtest.PhiloxWeights(p.Tensor, i, 0, centre); err != nil {
				return err
			}
		}
		r.terms = tenSteps(t, s, run, g)
		for _, p := range nn.List(run.model) {
			r.names = append(r.names, p.Name)
			r.weights = append(r.weights, torch.Data[float32](p.Tensor))
		}
		return nil
	})
	return r
}

// compare takes the limits of the comparison with the original.
func (r tenStepsResult) compare(t *testing.T, name string, got tenStepsResult) {
	t.Helper()
	torchtest.Run(t, func(s *torch.Scope) error {
		s = s.NoGrad()
		relative := func(a, b []float32, rows []int) float64 {
			return difference(s, torch.From(s, a, len(a)), torch.From(s, b, len(b)), rows)
		}
		for i, want := range r.terms {
			if e := relative(got.terms[i], want, nil); !(e <= 2e-6) {
				t.Errorf("%s: term %d: relative error %.2g", name, i, e)
			}
		}
		worst := 0.0
		for i, want := range r.weights {
			var keys []int // the bias of keys, whose gradient is nothing but rounding
			switch d := len(want); {
			case strings.HasSuffix(r.names[i], ".qkv.bias"):
				keys = []int{d / 3, 2 * d / 3}
			case strings.HasSuffix(r.names[i], ".kv.bias"):
				keys = []int{0, d / 2}
			}
			e := relative(got.weights[i], want, keys)
			worst = max(worst, e)
			if !(e <= 1e-5) {
				t.Errorf("%s: %s: relative error %.2g", name, r.names[i], e)
			}
		}
		t.Logf("%s: weights within %.1e", name, worst)
		return nil
	})
}
