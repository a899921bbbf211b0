package optim_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Steps on gradients of copies are those on gradients that were cast, and the copies follow the weights: after a step,
// one that is skipped, and when the state is another one.
func TestCopies(t *testing.T) {
	byBoth(t, func(t *testing.T) {
		torchtest.Run(t, func(s *torch.Scope) error {
			type half struct {
				params []nn.Param
				opt    *optim.AdamW
			}
			var halves [2]half // that casts, and that has a copy
			for i := range halves {
				w, b := nn.Parameter(s, 37, 5), nn.Parameter(s, 7)
				defer w.Close()
				defer b.Close()
				s.NoGrad().Copy_(w, torchtest.Normal(s, 1, 37, 5))
				params := []nn.Param{{Name: "w", Tensor: w, Product: true}, {Name: "b", Tensor: b}}
				o, err := optim.NewAdamW(params, optim.Config{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1},
					optim.Sharding{})
				if err != nil {
					return err
				}
				defer o.Close()
				halves[i] = half{params, o}
			}
			plain, own := halves[0], halves[1]
			copies := own.opt.Copies(s, func(p nn.Param) bool { return p.Product })
			copied := copies[0].Tensor
			if copied.DType() != torch.BFloat16 || copies[1].Tensor != own.params[1].Tensor {
				t.Fatalf("copies of %v and %v", copied.DType(), copies[1].Tensor.DType())
			}
			follows := func(when string) {
				t.Helper()
				if !bytes.Equal(copied.Bytes(), s.NoGrad().To(own.params[0].Tensor, torch.BFloat16).Bytes()) {
					t.Errorf("%s: the copy is not the weight", when)
				}
			}
			step := func(k uint64, factor float64) {
				for i, h := range halves {
					s.Sub(func(s *torch.Scope) *torch.Tensor {
						w := copied
						if i == 0 {
							w = s.To(plain.params[0].Tensor, torch.BFloat16)
						}
						x := s.To(torchtest.Normal(s, k, 11, 5), torch.BFloat16)
						y := s.To(s.Linear(x, w, nil), torch.Float32)
						loss := s.Add(s.Mean(s.Square(y)), s.Mean(s.Square(h.params[1].Tensor)))
						s.Backward(s.MulScalar(loss, factor))
						h.opt.Step(s, optim.StepOptions{LR: torchtest.Scalar(s, 0.01), MaxNorm: 0.1,
							EMADecay: torchtest.Scalar(s, 0.9)})
						return nil
					})
				}
			}
			follows("at first")
			for k := range uint64(3) {
				step(2+k, 1)
				follows("after a step")
			}
			for i, want := range everything(s, plain.opt, plain.params) {
				if !bytes.Equal(want, everything(s, own.opt, own.params)[i]) {
					t.Errorf("tensor %d is not that of gradients that were cast", i)
				}
			}
			kept, before := own.opt.Keep(s), copied.Bytes()
			defer kept.Close()
			step(9, math.Inf(1))
			if follows("after a step that is skipped"); !bytes.Equal(copied.Bytes(), before) {
				t.Error("a step that is skipped changed the copy")
			}
			step(9, 1)
			if bytes.Equal(copied.Bytes(), before) {
				t.Error("a step did not change the copy")
			}
			kept.Restore(s)
			if follows("after it was put back"); !bytes.Equal(copied.Bytes(), before) {
				t.Error("Restore left the copy")
			}

			s.Backward(s.Sum(s.To(copied, torch.Float32)))
			own.opt.ExposeGrad()
			if g := s.Grad(own.params[0].Tensor); g == nil || g.DType() != torch.Float32 || s.Sum(g).Item() != 37*5 {
				t.Errorf("the gradient is %v", g)
			}
			own.opt.ZeroGrad()
			if s.Grad(own.params[0].Tensor) != nil || s.Grad(copied) != nil {
				t.Error("ZeroGrad left a gradient")
			}
			return nil
		})
	})
}
