package optim_test

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// everything returns the bytes of parameters, averages and state.
func everything(s *torch.Scope, o *optim.AdamW, params []nn.Param) (out [][]byte) {
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		for _, p := range slices.Concat(params, o.EMA(s), o.State(s)) {
			out = append(out, p.Tensor.Bytes())
		}
		return nil
	})
	return out
}

func sameBytes(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

func TestSkippedStepChangesNothing(t *testing.T) { byBoth(t, skippedStepChangesNothing) }

func skippedStepChangesNothing(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		p, frozen := nn.Parameter(s, 5), torch.Persist(s.Full(3, torch.Float32, 2))
		defer p.Close()
		defer frozen.Close()
		negativeZero := float32(math.Copysign(0, -1)) // plus zero is another number of the same value
		s.NoGrad().Copy_(p, torch.From(s, []float32{1, negativeZero, -2, 1e-40, 3}, 5))
		params := []nn.Param{{Name: "p", Tensor: p}, {Name: "frozen", Tensor: frozen, Buffer: true}}
		cfg := optim.DefaultConfig
		cfg.WeightDecay = 0.1
		o, err := optim.NewAdamW(params, cfg, optim.Sharding{})
		if err != nil {
			return err
		}
		defer o.Close()
		step := func(g []float32, opt optim.StepOptions) (norm, skipped, update float64) {
			s.Sub(func(s *torch.Scope) *torch.Tensor {
				s.Backward(s.Sum(s.Mul(p, torch.From(s, g, 5))))
				opt.LR, opt.MaxNorm, opt.EMADecay = torchtest.Scalar(s, 0.1), 1, torchtest.Scalar(s, 0.9)
				o.Watch()
				r := o.Step(s, opt)
				norm, skipped = r.Norm.Item(), r.Skipped.Item()
				update = o.Change(s).Item()
				return nil
			})
			return norm, skipped, update
		}
		nan, inf := float32(math.NaN()), float32(math.Inf(-1))
		good := []float32{1, 0, 2, 0, 3}
		check := func(when string) {
			before := everything(s, o, params)
			for what, g := range map[string][]float32{"NaN": {1, nan, 2, 0, 3}, "infinity": {1, 1, 2, inf, 3},
				"overflow of the norm": {3e38, 3e38, 1, 1, 1}} {
				norm, skipped, update := step(g, optim.StepOptions{})
				if skipped != 1 || update != 0 || !(math.IsNaN(norm) || math.IsInf(norm, 1)) {
					t.Errorf("%s, %s: norm %v, skipped %v, update %v", when, what, norm, skipped, update)
				}
				if !sameBytes(before, everything(s, o, params)) {
					t.Errorf("%s, %s: the step changed something", when, what)
				}
			}
			norm, skipped, _ := step(good, optim.StepOptions{Skip: s.Ones(torch.Float32)})
			if skipped != 1 || !(math.Abs(norm-math.Sqrt(14)) < 1e-5) || !sameBytes(before, everything(s, o, params)) {
				t.Errorf("%s: told to skip: norm %v, skipped %v", when, norm, skipped)
			}
		}
		check("at first")
		before := torch.Data[float32](p)
		_, skipped, update := step(good, optim.StepOptions{Skip: s.Zeros(torch.Float32)})
		want := 0.0
		for i, v := range torch.Data[float32](p) {
			want += math.Pow(float64(v-before[i]), 2)
		}
		if want = math.Sqrt(want); skipped != 0 || want == 0 || !(math.Abs(update/want-1) < 1e-5) {
			t.Errorf("skipped %v, norm of the change %v, want %v", skipped, update, want)
		}
		if n := o.State(s)[0].Tensor.Item(); n != 1 {
			t.Errorf("%v steps, want 1", n)
		}
		check("later")
		return nil
	})
}

// Two backward passes over halves of a batch give the step of one over the whole.
func TestAccumulationEqualsTheWholeBatch(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		gen, err := torch.NewGenerator(torch.CPU, 1)
		if err != nil {
			return err
		}
		x := s.Reshape(torch.From(s, func() (v []float32) {
			for i := range 8 * 3 {
				v = append(v, float32(math.Sin(float64(i))))
			}
			return v
		}(), 24), 8, 3)
		run := func(parts int) [][]byte {
			m := &struct {
				L nn.Linear `dit:"l"`
			}{nn.NewLinear(s, 3, 4)}
			defer nn.Close(m)
			gen, err = torch.NewGenerator(torch.CPU, 1)
			if err != nil {
				t.Fatal(err)
			}
			nn.XavierUniform(s, gen, m.L.Weight)
			o, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			for range 3 {
				s.Sub(func(s *torch.Scope) *torch.Tensor {
					for _, part := range s.Chunk(x, parts, 0) {
						loss := s.Mean(s.Square(m.L.Forward(s, part)))
						s.Backward(s.MulScalar(loss, 1/float64(parts)))
					}
					o.Step(s, optim.StepOptions{LR: torchtest.Scalar(s, 0.01), EMADecay: torchtest.Scalar(s, 0.9)})
					return nil
				})
			}
			return everything(s, o, nn.List(m))
		}
		whole, halves := run(1), run(2)
		for i := range whole {
			a, b := s.FromBytes(torch.Float32, whole[i], len(whole[i])/4),
				s.FromBytes(torch.Float32, halves[i], len(whole[i])/4)
			if e := torchtest.Relative(s, b, a); !(e < 1e-6) {
				t.Errorf("tensor %d: relative error %.2g", i, e)
			}
		}
		return nil
	})
}

// A snapshot keeps what it was taken of while training goes on, and is what State and EMA say.
func TestSnapshotStays(t *testing.T) {
	r := openRun(t)
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		params := r.params(t, s)
		o := r.optimizer(t, params, "clip")
		r.step(s, o, params, "clip", 1)
		for k := 2; k < 4; k++ {
			var want [][]checkpoint.Tensor
			s.Sub(func(s *torch.Scope) *torch.Tensor {
				want = [][]checkpoint.Tensor{nn.Snapshot(params), nn.Snapshot(o.EMA(s)), nn.Snapshot(o.State(s))}
				return nil
			})
			p, err := o.Snapshot(s)
			if err != nil {
				return err
			}
			if _, err := o.Snapshot(s); err == nil || !strings.Contains(err.Error(), "still open") {
				t.Errorf("a second snapshot: %v", err)
			}
			r.step(s, o, params, "clip", k)
			if k == 3 {
				o.Close() // the snapshot outlives the optimizer
			}
			state, meta := p.Optimizer()
			if len(meta) != 1 || meta["format"] != "pt" {
				t.Errorf("metadata %v", meta)
			}
			for i, got := range [][]checkpoint.Tensor{p.Weights(), p.Averages(), state} {
				var a, b bytes.Buffer
				if err := checkpoint.Encode(&a, got, nil, checkpoint.Options{}); err != nil {
					return err
				}
				if err := checkpoint.Encode(&b, want[i], nil, checkpoint.Options{}); err != nil {
					return err
				}
				if !bytes.Equal(a.Bytes(), b.Bytes()) {
					t.Errorf("step %d: file %d of the snapshot differs", k, i)
				}
			}
			p.Close()
			p.Close()
		}
		for _, p := range params {
			p.Tensor.Close()
		}
		return nil
	})
	if n := torch.Live() - before; n != 0 {
		t.Errorf("%d tensors left", n)
	}
}

func TestStepRefusesOtherScalars(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		p := nn.Parameter(s, 3)
		defer p.Close()
		o, err := optim.NewAdamW([]nn.Param{{Name: "p", Tensor: p}}, optim.DefaultConfig, optim.Sharding{})
		if err != nil {
			return err
		}
		defer o.Close()
		s.Backward(s.Sum(p))
		good := torchtest.Scalar(s, 0.1)
		for want, opt := range map[string]optim.StepOptions{
			"nil tensor":                                {},
			"the learning rate is Float []":             {LR: s.Full(0.1, torch.Float32)},
			"the learning rate is Double [2]":           {LR: s.Full(0.1, torch.Float64, 2)},
			"the decay of the average is Long [], want": {LR: good, EMADecay: s.Zeros(torch.Int64)},
		} {
			err := s.Try(func(s *torch.Scope) error { o.Step(s, opt); return nil })
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), " on cpu", ""), want) {
				t.Errorf("%v, want an error with %q", err, want)
			}
		}
		if got := torch.Data[float32](p); got[0] != 0 {
			t.Errorf("a refused step changed the parameter to %v", got)
		}
		o.Step(s, optim.StepOptions{LR: s.Reshape(good, 1)})
		return nil
	})
}
