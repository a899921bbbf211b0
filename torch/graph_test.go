package torch_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// replayError returns the *Error with which f fails, nil where it does not.
func replayError(t *testing.T, s *torch.Scope, f func()) *torch.Error {
	t.Helper()
	err := s.Try(func(*torch.Scope) error { f(); return nil })
	var e *torch.Error
	if err != nil && !errors.As(err, &e) {
		t.Fatalf("got %v, want a *torch.Error", err)
	}
	return e
}

// wantError fails unless e is of op and has all parts in its text.
func wantError(t *testing.T, e *torch.Error, what, op string, parts ...string) {
	t.Helper()
	if e == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, part := range parts {
		if !strings.Contains(e.Msg, part) {
			t.Errorf("%s: %v: want %q in it", what, e, part)
		}
	}
	if e.Op != op {
		t.Errorf("%s: %v: it names %s, want %s", what, e, e.Op, op)
	}
}

// Each replay computes with what the persistent tensors hold then, and writes the same results.
func TestReplayEqualsPlainRun(t *testing.T) {
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		x, w := torch.Persist(s.Zeros(torch.Float32, 2, 3)), torch.Persist(s.Full(0.5, torch.Float32, 3, 3))
		defer x.Close()
		defer w.Close()
		f := func(s *torch.Scope) []*torch.Tensor {
			h := s.Sub(func(s *torch.Scope) *torch.Tensor { return s.AddScalar(s.MatMul(x, w), 1) })
			parts := s.Chunk(h, 3, 1)
			return []*torch.Tensor{h, nil, s.Expand(parts[2], 2, 4), x}
		}
		set := func(k float32) {
			x.CopyFromBytes(torch.From(s, []float32{k, 2, 3, 4, 5, 6 * k}, 2, 3).Bytes())
		}
		set(1)
		f(s)
		g := s.Capture(f)
		wantError(t, replayError(t, s, func() { g.Results() }), "before the first replay", "Results", "Replay first")
		var first []*torch.Tensor
		for k := range 4 {
			set(float32(k))
			g.Replay()
			results := g.Results()
			if first == nil {
				first = slices.Clone(results)
			}
			if !slices.Equal(results, first) || results[1] != nil {
				t.Errorf("replay %d: other handles, or a result where the function returned nil", k)
			}
			for i, y := range f(s) {
				if y != nil && !slices.Equal(torch.Data[float32](y), torch.Data[float32](results[i])) {
					t.Errorf("replay %d, result %d: %v, want %v", k, i, torch.Data[float32](results[i]),
						torch.Data[float32](y))
				}
			}
		}
		g.Close()
		g.Close()
		wantError(t, replayError(t, s, g.Replay), "after Close", "Replay", "closed")
		wantError(t, replayError(t, s, func() { g.Results() }), "after Close", "Results", "closed")
		return nil
	})
	wantLive(t, before, "at the end")
}

// A step whose numbers come from a feed and whose draws are made on the device can be in a graph: one upload a replay.
func TestReplayWithFeedAndDraws(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		if s.Device().IsCUDA() {
			if _, why := torch.PluginStatus(s.Device()); why != nil {
				t.Skip("without kernels, draws are made on the host: ", why)
			}
		}
		feed := torch.NewFeed(s, torch.Part{DType: torch.Int64}, torch.Part{DType: torch.Int64, Shape: []int{3}})
		defer feed.Close()
		table := torch.Persist(torch.From(s, []float32{0, 10, 20, 30}, 4, 1))
		defer table.Close()
		f := func(s *torch.Scope) []*torch.Tensor {
			step, labels := feed.Tensor(0), feed.Tensor(1)
			rows := s.IndexSelect(table, 0, s.Clamp(labels, 0, 3))
			return []*torch.Tensor{s.Add(rows, s.PhiloxNormal(7, 1, step, labels, 2))}
		}
		f(s)
		g := s.Capture(f)
		defer g.Close()
		for k := range 4 {
			values := []int64{int64(k), int64(k % 2), 3, int64(k)}
			before := torch.Counts()
			encode(t, feed.Bytes(0), values[:1])
			encode(t, feed.Bytes(1), values[1:])
			feed.Send()
			g.Replay()
			if c := torch.Counts().Sub(before); c.Uploads != 1 || c.ReadBacks != 0 {
				t.Errorf("replay %d: %+v, want one upload and nothing read back", k, c)
			}
			got, want := torch.Data[float32](g.Results()[0]), torch.Data[float32](f(s)[0])
			if !slices.Equal(got, want) {
				t.Errorf("replay %d: %v, want %v", k, got, want)
			}
		}
		return nil
	})
}

// On a GPU what differs is frozen, so that on the CPU each kind of difference is an error.
func TestReplayFindsWhatDiffers(t *testing.T) {
	if torchtest.Device(t).IsCUDA() {
		t.Skip("a CUDA graph does not call the function again")
	}
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		persistent := func(dims ...int) *torch.Tensor {
			p := torch.Persist(s.Ones(torch.Float32, dims...))
			t.Cleanup(p.Close)
			return p
		}
		x, y, wide := persistent(2, 2), persistent(2, 2), persistent(2, 3)
		p := persistent(2, 2)
		p.SetRequiresGrad(true)
		pick := func(second bool, a, b *torch.Tensor) *torch.Tensor {
			if second {
				return b
			}
			return a
		}
		for name, c := range map[string]struct {
			f    func(s *torch.Scope, second bool) []*torch.Tensor
			want []string
		}{
			"a number": {func(s *torch.Scope, second bool) []*torch.Tensor {
				k := 0.5
				if second {
					k = 0.25
				}
				return []*torch.Tensor{s.MulScalar(x, k)}
			}, []string{"operation 1 was", "MulScalar(", ", 0.5) for autograd, it is", ", 0.25)"}},
			"dimensions": {func(s *torch.Scope, second bool) []*torch.Tensor {
				return []*torch.Tensor{s.Reshape(x, 4, map[bool]int{false: 1, true: -1}[second])}
			}, []string{"Reshape(", "[4 1])", "[4 -1])"}},
			"a shape": {func(s *torch.Scope, second bool) []*torch.Tensor {
				return []*torch.Tensor{s.Exp(pick(second, x, wide))}
			}, []string{"#1 float32 [2 2] = Exp(", "#1 float32 [2 3] = Exp("}},
			"another persistent tensor": {func(s *torch.Scope, second bool) []*torch.Tensor {
				return []*torch.Tensor{s.Exp(pick(second, x, y))}
			}, []string{"Exp(float32 [2 2] at 0x"}},
			"one of a list": {func(s *torch.Scope, second bool) []*torch.Tensor {
				return []*torch.Tensor{s.Cat([]*torch.Tensor{y, pick(second, x, y)}, 0)}
			}, []string{"Cat([float32 [2 2] at 0x"}},
			"another operand of the capture": {func(s *torch.Scope, second bool) []*torch.Tensor {
				a, b := s.Exp(x), s.Exp(x)
				return []*torch.Tensor{s.Neg(pick(second, a, b))}
			}, []string{"operation 3", "Neg(#1)", "Neg(#2)"}},
			"the operation": {func(s *torch.Scope, second bool) []*torch.Tensor {
				if second {
					return []*torch.Tensor{s.Sin(x)}
				}
				return []*torch.Tensor{s.Cos(x)}
			}, []string{"Cos(", "Sin("}},
			"one more": {func(s *torch.Scope, second bool) []*torch.Tensor {
				if second {
					s.Fill_(x, 1)
				}
				return nil
			}, []string{"operation 1 was the results([]), it is Fill_("}},
			"one less": {func(s *torch.Scope, second bool) []*torch.Tensor {
				if !second {
					s.Fill_(x, 1)
				}
				return nil
			}, []string{"operation 1 was Fill_("}},
			"the mode": {func(s *torch.Scope, second bool) []*torch.Tensor {
				if second {
					s = s.NoGrad()
				}
				return []*torch.Tensor{s.Exp(x)}
			}, []string{"for autograd, it is"}},
			"the results": {func(s *torch.Scope, second bool) []*torch.Tensor {
				a, b := s.Exp(x), s.Exp(x)
				return []*torch.Tensor{pick(second, a, b)}
			}, []string{"the results([#1])", "the results([#2])"}},
			"in Sub, SubAll and Try": {func(s *torch.Scope, second bool) []*torch.Tensor {
				s.SubAll(func(s *torch.Scope) []*torch.Tensor {
					return []*torch.Tensor{s.Sub(func(s *torch.Scope) *torch.Tensor {
						// Also where the error is passed over.
						s.TF32(true).Try(func(s *torch.Scope) error { s.Exp(pick(second, x, y)); return nil })
						return s.Neg(x)
					})}
				})
				return nil
			}, []string{"Exp(", "for autograd in TF32"}},
			"the gradient": {func(s *torch.Scope, second bool) []*torch.Tensor {
				if !second {
					s.Backward(s.Sum(s.Mul(p, p)))
				}
				g := s.Grad(p)
				p.ClearGrad()
				return []*torch.Tensor{g}
			}, []string{"Mul(", "it is nil = Grad("}},
			"what requires gradients": {func(s *torch.Scope, second bool) []*torch.Tensor {
				p.SetRequiresGrad(!second)
				return nil
			}, []string{", true)", ", false)"}},
		} {
			second := false
			g := s.Capture(func(s *torch.Scope) []*torch.Tensor { return c.f(s, second) })
			if e := replayError(t, s, g.Replay); e != nil {
				t.Errorf("%s: the first replay: %v", name, e)
			}
			if e := replayError(t, s, g.Replay); e != nil {
				t.Errorf("%s: the second replay, in which nothing differs: %v", name, e)
			}
			second = true
			wantError(t, replayError(t, s, g.Replay), name, "Replay", append(c.want, "persistent tensors")...)
			second = false
			if e := replayError(t, s, g.Replay); e != nil {
				t.Errorf("%s: a replay after that: %v", name, e)
			}
			g.Close()
		}
		return nil
	})
	wantLive(t, before+4, "after the graphs") // the persistent ones
}

// What goes between the host and the device fails in a capture, by its name, and works after it.
func TestCaptureRefuses(t *testing.T) {
	torchtest.Run(t, func(outer *torch.Scope) error {
		dev := outer.Device()
		x := torch.Persist(outer.Ones(torch.Float32, 1))
		defer x.Close()
		index := torch.Persist(outer.To(x, torch.Int64)) // of unknown range
		defer index.Close()
		table := torch.Persist(outer.Ones(torch.Float32, 3, 2))
		defer table.Close()
		gen, err := torch.NewGenerator(dev, 1)
		if err != nil {
			return err
		}
		other := outer.Capture(func(s *torch.Scope) []*torch.Tensor { return []*torch.Tensor{s.Exp(x)} })
		defer other.Close()
		m, o, err := newPerceptron(outer, 4)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		defer o.Close()
		raise := func(err error) {
			var e *torch.Error
			if errors.As(err, &e) {
				panic(e)
			} else if err != nil {
				panic(err)
			}
		}
		for _, c := range []struct {
			op, part string
			f        func(s *torch.Scope)
		}{
			{"From", "before Replay", func(s *torch.Scope) { torch.From(s, []float32{1}, 1) }},
			{"FromBytes", "uploads", func(s *torch.Scope) { s.FromBytes(torch.Uint8, []byte{1}, 1) }},
			{"CopyFromBytes", "uploads", func(s *torch.Scope) { x.CopyFromBytes(make([]byte, 4)) }},
			{"Fill", "uploads", func(s *torch.Scope) { raise(x.Fill(func([]byte, int64) error { return nil })) }},
			{"Data", "after Replay", func(s *torch.Scope) { torch.Data[float32](s.Exp(x)) }},
			{"Bytes", "reads back", func(s *torch.Scope) { x.Bytes() }},
			{"Item", "reads back", func(s *torch.Scope) { s.Exp(x).Item() }},
			{"IndexSelect", "Clamp", func(s *torch.Scope) { s.IndexSelect(table, 0, index) }},
			{"Embedding", "Clamp", func(s *torch.Scope) { s.NoGrad().Embedding(table, index) }},
			{"Synchronize", "waits", func(s *torch.Scope) { s.Synchronize() }},
			{"Synchronize", "waits", func(s *torch.Scope) { raise(dev.Synchronize()) }},
			{"Randn", "Generator", func(s *torch.Scope) { s.Randn(gen, 2) }},
			{"Normal_", "Generator", func(s *torch.Scope) { s.Normal_(x, gen, 0, 1) }},
			{"Persist", "return the tensor", func(s *torch.Scope) { torch.Persist(s.Exp(x)) }},
			{"Capture", "another one", func(s *torch.Scope) { s.Capture(nil) }},
			{"Replay", "another one", func(s *torch.Scope) { other.Replay() }},
			{"Scope", "a scope of its own", func(*torch.Scope) { outer.Exp(x) }},
			{"NewAdamW", "before", func(s *torch.Scope) {
				_, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
				raise(err)
			}},
			{"AdamW.Snapshot", "reads back", func(s *torch.Scope) { _, err := o.Snapshot(s); raise(err) }},
		} {
			first := true
			e := replayError(t, outer, func() {
				g := outer.Capture(func(s *torch.Scope) []*torch.Tensor {
					if first {
						c.f(s)
					}
					return nil
				})
				defer g.Close()
				g.Replay()
			})
			wantError(t, e, c.op+" in a capture", c.op, c.part)
		}
		// Nothing of a capture that failed stays on the thread.
		raise(x.Fill(func(p []byte, _ int64) error { clear(p); return nil }))
		if got := x.Item(); got != 0 {
			t.Errorf("Fill after the captures wrote %v, want 0", got)
		}
		outer.IndexSelect(table, 0, index)
		other.Replay()
		want(t, other.Results()[0], []float32{1}, 1) // of x, which Fill has written
		return nil
	})
}

// An error of the function is that of Replay. Where it is the first, the next replay is the first one.
func TestCaptureFails(t *testing.T) {
	if torchtest.Device(t).IsCUDA() {
		t.Skip("a CUDA graph does not call the function again")
	}
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		x := torch.Persist(s.Ones(torch.Float32, 2, 3))
		defer x.Close()
		fails, panics := true, false
		g := s.Capture(func(s *torch.Scope) []*torch.Tensor {
			if panics {
				panic("boom")
			}
			y := s.Exp(x)
			if fails {
				s.MatMul(y, y)
			}
			return []*torch.Tensor{y}
		})
		defer g.Close()
		live := torch.Live()
		e := replayError(t, s, g.Replay)
		wantError(t, e, "a product of wrong shapes", "MatMul")
		if !errors.Is(e, torch.ErrShape) {
			t.Errorf("%v is not ErrShape", e)
		}
		wantLive(t, live, "after the failure")
		fails = false
		g.Replay()
		fails = true
		wantError(t, replayError(t, s, g.Replay), "in a later replay", "MatMul")
		fails, panics = false, true
		func() {
			defer func() {
				if r := recover(); r != "boom" {
					t.Errorf("Replay let %v through, want the function's panic", r)
				}
			}()
			g.Replay()
		}()
		panics = false
		g.Replay()
		wantLive(t, live+1, "after the replays")
		return nil
	})
	wantLive(t, before, "at the end")
}

// What was dropped is freed by a scope that opens or closes, but not in a capture: freeing an event or pinned memory
// there would spoil it.
func TestCaptureReclaimsNothing(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		x := torch.Persist(s.Ones(torch.Float32, 2))
		defer x.Close()
		freed := false
		g := s.Capture(func(s *torch.Scope) []*torch.Tensor {
			torch.QueueFree(func() { freed = true })
			s.Sub(func(s *torch.Scope) *torch.Tensor { s.Exp(x); return nil })
			if freed {
				t.Error("freed in the capture")
			}
			return nil
		})
		defer g.Close()
		g.Replay()
		s.Sub(func(*torch.Scope) *torch.Tensor { return nil })
		if !freed {
			t.Error("not freed after the capture")
		}
		return nil
	})
}

// A training step in a graph trains as one without: forward, backward, optimizer.
func TestReplayTrains(t *testing.T) {
	before := torch.Live()
	torchtest.Run(t, func(s *torch.Scope) error {
		const width, steps = 8, 6
		train := func(graph bool) (losses []float32, weights []byte) {
			m, o, err := newPerceptron(s, width)
			if err != nil {
				t.Fatal(err)
			}
			defer nn.Close(m)
			defer o.Close()
			x := torch.Persist(s.Zeros(torch.Float32, 4, width))
			defer x.Close()
			f := torch.NewFeed(s, torch.Part{DType: torch.Float64}, torch.Part{DType: torch.Float64})
			defer f.Close()
			step := func(s *torch.Scope) []*torch.Tensor {
				loss := s.MSELoss(m.forward(s, x), x)
				s.Backward(loss)
				r := o.Step(s, optim.StepOptions{LR: f.Tensor(0), MaxNorm: 1, EMADecay: f.Tensor(1)})
				return []*torch.Tensor{s.Detach(loss), r.Norm, r.Skipped}
			}
			batch := func(k int) {
				encode(t, f.Bytes(0), []float64{0.01 / float64(k+1)})
				encode(t, f.Bytes(1), []float64{float64(1+k) / float64(10+k)})
				f.Send()
				data := make([]float32, 4*width)
				for i := range data {
					data[i] = float32((i*7+k*3)%11) - 5
				}
				x.CopyFromBytes(torch.From(s, data, 4, width).Bytes())
			}
			var g *torch.Graph
			for k := range steps {
				batch(k)
				switch {
				case !graph || k == 0:
					s.SubAll(func(s *torch.Scope) []*torch.Tensor {
						losses = append(losses, torch.Data[float32](step(s)[0])...)
						return nil
					})
					continue
				case k == 1:
					g = s.Capture(step)
				}
				g.Replay()
				losses = append(losses, torch.Data[float32](g.Results()[0])...)
			}
			if g != nil {
				g.Close()
			}
			for _, p := range append(nn.List(m), o.EMA(s)...) {
				weights = append(weights, p.Tensor.Bytes()...)
			}
			return losses, weights
		}
		losses, weights := train(false)
		graphLosses, graphWeights := train(true)
		if !slices.Equal(losses, graphLosses) || len(losses) != steps {
			t.Errorf("losses %v with a graph, want %v", graphLosses, losses)
		}
		if !slices.Equal(weights, graphWeights) {
			t.Error("the weights differ")
		}
		return nil
	})
	wantLive(t, before, "at the end")
}

// A capture may have leaves of its own, such as the inputs of blocks that are computed twice, wherever they lie.
func TestReplayOfOwnLeaves(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		p := torch.Persist(s.Full(3, torch.Float32, 2))
		defer p.Close()
		p.SetRequiresGrad(true)
		square := func(s *torch.Scope) []*torch.Tensor {
			x := s.Detach(s.MulScalar(p, 2))
			x.SetRequiresGrad(true)
			s.Backward(s.Sum(s.Mul(x, x)))
			return []*torch.Tensor{s.Grad(x)}
		}
		square(s)
		g := s.Capture(square)
		defer g.Close()
		for range 3 {
			s.Zeros(torch.Float32, 2) // takes a place that was free
			g.Replay()
			want(t, g.Results()[0], []float32{12, 12}, 2)
		}
		return nil
	})
}

// A backward pass puts a gradient into an empty place the first time and adds to it after that, which are different
// graphs.
func TestReplayFindsGradients(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		p := torch.Persist(s.Full(3, torch.Float32, 2))
		defer p.Close()
		p.SetRequiresGrad(true)
		backward := func(s *torch.Scope) []*torch.Tensor {
			s.Backward(s.Sum(s.Mul(p, p)))
			return nil
		}
		if !s.Device().IsCUDA() {
			g := s.Capture(backward)
			defer g.Close()
			g.Replay()
			wantError(t, replayError(t, s, g.Replay), "without a gradient before", "Replay",
				"Backward(#2, to 1 tensors at 0x", ", 0 of them with a gradient) for autograd, it is",
				", 1 of them with a gradient)")
			p.ClearGrad()
		}
		backward(s)
		g := s.Capture(backward)
		defer g.Close()
		for k := range 2 {
			g.Replay()
			got, want := torch.Data[float32](s.Grad(p)), float32(6*(k+2))
			if !slices.Equal(got, []float32{want, want}) {
				t.Errorf("replay %d: gradient %v, want %v", k, got, want)
			}
		}
		return nil
	})
}

// The optimizer's numbers are frozen too, but not those that are tensors.
func TestReplayFindsOtherOptions(t *testing.T) {
	if torchtest.Device(t).IsCUDA() {
		t.Skip("a CUDA graph does not call the function again")
	}
	torchtest.Run(t, func(s *torch.Scope) error {
		m, o, err := newPerceptron(s, 4)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		defer o.Close()
		x := torch.Persist(s.Ones(torch.Float32, 2, 4))
		defer x.Close()
		opt := optim.StepOptions{LR: torchtest.Scalar(s, 0.5), MaxNorm: 1, EMADecay: torchtest.Scalar(s, 0.75)}
		other, skip := torchtest.Scalar(s, 0.25), s.Zeros(torch.Float32)
		g := s.Capture(func(s *torch.Scope) []*torch.Tensor {
			s.Backward(s.MSELoss(m.forward(s, x), x))
			o.Step(s, opt)
			return nil
		})
		defer g.Close()
		g.Replay()
		s.NoGrad().Copy_(opt.LR, other)
		s.NoGrad().Copy_(opt.EMADecay, other)
		g.Replay()
		lr, decay := torch.Operand(opt.LR), torch.Operand(opt.EMADecay)
		for now, change := range map[string]func(*optim.StepOptions){
			torch.Operand(other) + ", 1, " + decay + ", nil)": func(o *optim.StepOptions) { o.LR = other },
			lr + ", 2, " + decay + ", nil)":                   func(o *optim.StepOptions) { o.MaxNorm = 2 },
			lr + ", 1, nil, nil)":                             func(o *optim.StepOptions) { o.EMADecay = nil },
			lr + ", 1, " + decay + ", float32 []":             func(o *optim.StepOptions) { o.Skip = skip },
		} {
			was := opt
			change(&opt)
			wantError(t, replayError(t, s, g.Replay), fmt.Sprintf("options %+v", opt), "Replay",
				lr+", 1, "+decay+", nil)", now)
			opt = was
		}
		return nil
	})
}
