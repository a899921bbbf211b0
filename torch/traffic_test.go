package torch_test

import (
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// traffic returns what f adds to the counts.
func traffic(f func()) torch.Traffic {
	before := torch.Counts()
	f()
	return torch.Counts().Sub(before)
}

// Each call counts on the CPU what it has to do on a GPU.
func TestCounts(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		s = s.NoGrad()
		x, index := torch.From(s, []float32{1, 2, 3}, 3), torch.From(s, []int64{2, 0}, 2)
		computed := s.Add(index, s.Zeros(torch.Int64, 2))
		step, samples := s.Zeros(torch.Int64, 1), s.Arange(3, torch.Int64)
		for _, c := range []struct {
			name string
			f    func()
			want torch.Traffic
		}{
			{"From", func() { torch.From(s, []int64{1}, 1) }, torch.Traffic{Uploads: 1}},
			{"FromBytes", func() { s.FromBytes(torch.Uint8, []byte{1}, 1) }, torch.Traffic{Uploads: 1}},
			{"CopyFromBytes", func() { x.CopyFromBytes(make([]byte, 12)) }, torch.Traffic{Uploads: 1}},
			{"Fill", func() {
				if err := x.Fill(func(p []byte, off int64) error { return nil }); err != nil {
					t.Error(err)
				}
			}, torch.Traffic{Uploads: 1}},
			{"Data", func() { torch.Data[float32](x) }, torch.Traffic{ReadBacks: 1}},
			{"Bytes", func() { x.Bytes() }, torch.Traffic{ReadBacks: 1}},
			{"Item", func() { s.Sum(x).Item() }, torch.Traffic{ReadBacks: 1}},
			{"Synchronize", func() { s.Synchronize() }, torch.Traffic{Waits: 1}},
			{"Synchronize of a device", func() {
				if err := s.Device().Synchronize(); err != nil {
					t.Error(err)
				}
			}, torch.Traffic{Waits: 1}},
			{"indices from the host", func() { s.IndexSelect(x, 0, index) }, torch.Traffic{}},
			{"computed indices", func() { s.IndexSelect(x, 0, computed) }, torch.Traffic{ReadBacks: 1}},
			{"clamped indices", func() { s.IndexSelect(x, 0, s.Clamp(computed, 0, 2)) }, torch.Traffic{}},
			{"arithmetic", func() { s.MulScalar(s.Clamp(s.Add(x, x), 0, 1), 2) }, torch.Traffic{}},
			{"draws", func() {
				s.PhiloxNormal(1, 0, step, samples, 4)
				s.PhiloxUniform(1, 0, step, samples)
			}, torch.Traffic{}},
		} {
			if _, why := torch.PluginStatus(s.Device()); c.name == "draws" && s.Device().IsCUDA() && why != nil {
				c.want = torch.Traffic{Uploads: 2, ReadBacks: 4} // computed on the host and copied
			}
			if got := traffic(c.f); got != c.want {
				t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
			}
		}
		return nil
	})
}

// The bounds that Clamp gives are checked as the values from the host are, and hold until the tensor is written to.
func TestClampedIntegers(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		table, index := torch.From(s, []float32{10, 20, 30, 40}, 4, 1), torch.From(s, []int64{-5, 1, 99}, 3)
		c := s.Clamp(index, 0, 3)
		want(t, c, []int64{0, 1, 3}, 3)
		want(t, s.Embedding(table, c), []float32{10, 20, 40}, 3, 1)
		for name, f := range map[string]func(s *torch.Scope){
			"bounds beyond the table":         func(s *torch.Scope) { s.IndexSelect(table, 0, s.Clamp(index, 0, 4)) },
			"a bound below 0":                 func(s *torch.Scope) { s.Embedding(table, s.Clamp(index, -1, 3)) },
			"half a bound":                    func(s *torch.Scope) { s.Clamp(index, 0, 0.5) },
			"a bound that is no whole number": func(s *torch.Scope) { s.Clamp(index, 0, 1e300) },
			"written to":                      func(s *torch.Scope) { s.Fill_(c, 7); s.IndexSelect(table, 0, c) },
		} {
			if err := s.Try(func(s *torch.Scope) error { f(s); return nil }); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		return nil
	})
}

// A step of training touches the host nowhere; a snapshot copies five buffers and waits for them.
func TestCountsOfTheOptimizer(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		m, o, err := newPerceptron(s, 4)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		defer o.Close()
		x := s.Ones(torch.Float32, 2, 4)
		if got := traffic(func() { err = m.step(s, o, x, "") }); err != nil || got != (torch.Traffic{}) {
			t.Errorf("a step: %+v, %v, want nothing", got, err)
		}
		got := traffic(func() {
			snapshot, e := o.Snapshot(s)
			if err = e; e == nil {
				snapshot.Close()
			}
		})
		if want := (torch.Traffic{ReadBacks: 5, Waits: 1}); err != nil || got != want {
			t.Errorf("a snapshot: %+v, %v, want %+v", got, err, want)
		}
		return nil
	})
}
