package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/philox"
)

// testResult is one test of doctor.
type testResult struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Seconds float64 `json:"seconds"`
	Text    string  `json:"text"`
	// GFLOPS is set by the matrix product, in 10^9 operations per second.
	GFLOPS float64 `json:"gflops,omitempty"`
	// StepSeconds is set by the training run.
	StepSeconds float64 `json:"step_seconds,omitempty"`
}

// test runs the self-test on dev, prints each result and adds failures to the
// problems. The error is an interrupt.
func (d *diagnosis) test(e *env, dev torch.Device) error {
	e.printf("")
	e.printf("self-test on %s", describeDevice(dev))
	before := torch.Live()
	for _, t := range []struct {
		name string
		run  func(context.Context, torch.Device, *testResult) error
	}{
		{"matmul", testMatMul},
		{"training", testTraining},
		{"random", testRandom},
	} {
		r := testResult{Name: t.name, OK: true}
		start := time.Now()
		err := t.run(e.ctx, dev, &r)
		r.Seconds = time.Since(start).Seconds()
		if cause := context.Cause(e.ctx); cause != nil {
			return cause
		}
		if err != nil {
			r.OK, r.Text = false, "FAILED: "+err.Error()
			d.problem(fmt.Sprintf("self-test %s failed: %v", t.name, err),
				"run `make build` again; if the test still fails, report it with the output of `ditrun doctor --json`")
		}
		d.SelfTest = append(d.SelfTest, r)
		e.printf("%-*s%s", labelWidth, t.name, r.Text)
	}
	if n := torch.Live() - before; n != 0 {
		d.problem("self-test left "+plural(int(n), "tensor"),
			"this is a bug: report it with the output of `ditrun doctor --json`")
	}
	return nil
}

// testMatMul times products of two square matrices of normals and checks one
// row against float64.
func testMatMul(ctx context.Context, dev torch.Device, r *testResult) error {
	n := 1024
	if dev.IsCUDA() {
		n = 8192
	}
	return torch.Run(dev, func(s *torch.Scope) error {
		s = s.NoGrad()
		step0, indices := s.Zeros(torch.Int64, 1), s.Arange(n, torch.Int64)
		a := s.PhiloxNormal(1, philox.TagStartNoise, step0, indices, n)
		b := s.PhiloxNormal(2, philox.TagStartNoise, step0, indices, n)
		row := torch.Data[float32](s.Sub(func(s *torch.Scope) *torch.Tensor {
			return s.Contiguous(s.Narrow(s.MatMul(a, b), 0, 0, 1))
		}))
		product := func() error {
			return s.Try(func(s *torch.Scope) error {
				s.MatMul(a, b)
				s.Synchronize()
				return nil
			})
		}
		if err := product(); err != nil { // the first one also sets up
			return err
		}
		count, start := 0, time.Now()
		for time.Since(start) < 1500*time.Millisecond && ctx.Err() == nil {
			if err := product(); err != nil {
				return err
			}
			count++
		}
		seconds := time.Since(start).Seconds()
		r.GFLOPS = 2 * math.Pow(float64(n), 3) * float64(count) / seconds / 1e9
		r.Text = fmt.Sprintf("%s GFLOP/s (fp32, %dx%d)", format.Rate(r.GFLOPS), n, n)
		return checkRow(s, a, b, row)
	})
}

// checkRow compares the first row of a product of normals with its value.
func checkRow(s *torch.Scope, a, b *torch.Tensor, row []float32) error {
	n := a.Dim(1)
	want := make([]float64, n)
	x := torch.Data[float32](s.Contiguous(s.Narrow(a, 0, 0, 1)))
	y := torch.Data[float32](b)
	for k, v := range x {
		for j, w := range y[k*n : (k+1)*n] {
			want[j] += float64(v) * float64(w)
		}
	}
	// A sum of n products of normals is about sqrt(n). The limit leaves room for
	// a device that rounds to ten bits, as TF32 does.
	limit := 4e-3 * math.Sqrt(float64(n))
	for j := range row {
		if diff := math.Abs(float64(row[j]) - want[j]); !(diff <= limit) {
			return fmt.Errorf("element %d is %g, want %g", j, row[j], want[j])
		}
	}
	return nil
}

// testModel is a network of two layers.
type testModel struct {
	In  nn.Linear `dit:"in"`
	Out nn.Linear `dit:"out"`
}

// testTraining fits a small network to a function and wants the loss to fall.
func testTraining(ctx context.Context, dev torch.Device, r *testResult) error {
	const batch, width, steps = 64, 256, 60
	var first, last float64
	var elapsed time.Duration
	err := torch.Run(dev, func(s *torch.Scope) error {
		m := &testModel{nn.NewLinear(s, width, width), nn.NewLinear(s, width, width)}
		defer nn.Close(m)
		gen, err := torch.NewGenerator(torch.CPU, 0)
		if err != nil {
			return err
		}
		nn.XavierUniform(s, gen, m.In.Weight)
		nn.XavierUniform(s, gen, m.Out.Weight)
		opt, err := optim.NewAdamW(nn.List(m), optim.DefaultConfig, optim.Sharding{})
		if err != nil {
			return err
		}
		defer opt.Close()
		x := s.PhiloxNormal(3, philox.TagStartNoise, s.Zeros(torch.Int64, 1), s.Arange(batch, torch.Int64), width)
		y := s.Tanh(s.Flip(x, 1))
		start := time.Now()
		for i := 0; i < steps && ctx.Err() == nil; i++ {
			if i == 10 { // the first steps set up
				s.Synchronize()
				start = time.Now()
			}
			err := s.Try(func(s *torch.Scope) error {
				loss := s.MSELoss(m.Out.Forward(s, s.SiLU(m.In.Forward(s, x))), y)
				s.Backward(loss)
				opt.Step(s, optim.StepOptions{LR: s.Full(3e-3, torch.Float64), MaxNorm: 1})
				switch i {
				case 0:
					first = loss.Item()
				case steps - 1:
					last = loss.Item()
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		s.Synchronize()
		elapsed = time.Since(start)
		return nil
	})
	if err != nil || ctx.Err() != nil {
		return err
	}
	r.StepSeconds = elapsed.Seconds() / (steps - 10)
	r.Text = fmt.Sprintf("loss %.4f -> %.4f in %d steps, %.2f ms a step", first, last, steps, 1e3*r.StepSeconds)
	if !(last < first/5) {
		return fmt.Errorf("the loss went from %g to %g, want it to fall to a fifth", first, last)
	}
	return nil
}

// testRandom compares the device's random numbers with those of package
// philox, drawn together and alone.
func testRandom(_ context.Context, dev torch.Device, r *testResult) error {
	const rows, elements, seed, step = 64, 1000, 0x0123456789abcdef, 7
	return torch.Run(dev, func(s *torch.Scope) error {
		at, indices := torch.From(s, []int64{step}, 1), s.Arange(rows, torch.Int64)
		draw := func(indices *torch.Tensor) []float32 {
			return torch.Data[float32](s.PhiloxNormal(seed, philox.TagStepNoise, at, indices, elements))
		}
		all, again := draw(indices), draw(indices)
		alone := draw(s.Narrow(indices, 0, 17, 1))
		if !slices.Equal(all, again) {
			return errors.New("two draws with one seed differ")
		}
		if !slices.Equal(all[17*elements:18*elements], alone) {
			return errors.New("the noise of image 17 differs alone and in a batch")
		}
		want := make([]float32, elements)
		for i := range rows {
			philox.Normals(want, seed, philox.TagStepNoise, step, uint64(i))
			for j, w := range want {
				if got := all[i*elements+j]; math.Abs(float64(got-w)) > 1e-6 {
					return fmt.Errorf("image %d, element %d is %g, want %g", i, j, got, w)
				}
			}
		}
		r.Text = fmt.Sprintf("%s numbers as in the Go reference, alone and in a batch", format.Count(rows*elements))
		return nil
	})
}
