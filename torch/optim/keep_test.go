package optim_test

import (
	"math"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// What is kept brings back every bit of what steps change, and says how far they have gone.
func TestKeep(t *testing.T) {
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		p, frozen := nn.Parameter(s, 5), torch.Persist(s.Full(3, torch.Float32, 2))
		defer p.Close()
		defer frozen.Close()
		params := []nn.Param{{Name: "p", Tensor: p}, {Name: "frozen", Tensor: frozen, Buffer: true}}
		o, err := optim.NewAdamW(params, optim.DefaultConfig, optim.Sharding{})
		if err != nil {
			return err
		}
		defer o.Close()
		step := func(k float32) {
			s.Sub(func(s *torch.Scope) *torch.Tensor {
				s.Backward(s.Sum(s.Mul(p, torch.From(s, []float32{1, 0, 2, k, 3}, 5))))
				o.Step(s, optim.StepOptions{LR: torchtest.Scalar(s, 0.1), EMADecay: torchtest.Scalar(s, 0.9)})
				return nil
			})
		}
		step(1)
		kept, want := o.Keep(s), everything(s, o, params)
		defer kept.Close()
		for _, d := range kept.Distances(s) {
			if d.Norm != 0 {
				t.Errorf("%s differ by %v from themselves", d.Of, d.Norm)
			}
		}
		weights := torch.Data[float32](p)
		step(5)
		names := map[string]float64{"step count": 1}
		sum := 0.0
		for i, v := range torch.Data[float32](p) {
			sum += math.Pow(float64(v-weights[i]), 2)
		}
		names["weights"] = math.Sqrt(sum)
		for _, d := range kept.Distances(s) {
			if want, ok := names[d.Of]; !(d.Norm > 0) || ok && !(math.Abs(d.Norm/want-1) < 1e-5) {
				t.Errorf("after a step %s differ by %v, want %v", d.Of, d.Norm, want)
			}
		}
		kept.Restore(s)
		if !sameBytes(everything(s, o, params), want) {
			t.Error("what was kept does not come back")
		}
		return nil
	})
	if n := torch.Live(); n != before {
		t.Errorf("%d tensors live, %d before", n, before)
	}
}
