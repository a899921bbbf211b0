package dit

import (
	"bytes"
	"testing"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// Looked up, modulations give the output that they give when they are computed, in each type. Blocks without adaptive
// norms have none.
func TestModulationsLookedUp(t *testing.T) {
	goldenDesigns(t, func(t *testing.T, s *torch.Scope, g *torchtest.Goldens, name string, m *DiT) {
		s = s.NoGrad()
		if adaptive := m.cfg.Block == AdaLN || m.cfg.Block == AdaLNZero; !adaptive {
			if n := m.ModulationBytes(); n != 0 {
				t.Errorf("rows of %d bytes", n)
			}
			return
		}
		for _, dt := range []torch.DType{torch.Float32, torch.BFloat16} {
			m := m.As(s, dt)
			x, steps, cond := g.Tensor(s, "x"), g.Tensor(s, "t"), goldenCondition(s, g)
			want := m.Forward(s, x, steps, cond)
			n := int64(x.Dim(0))
			looked := Condition{Tokens: cond.Tokens, Lengths: cond.Lengths, Modulations: m.NewModulations(s, int(n)+1)}
			if got := int64(len(looked.Modulations.table.Bytes())); got != (n+1)*m.ModulationBytes() {
				t.Errorf("%v: %d rows of %d bytes take %d", dt, n+1, m.ModulationBytes(), got)
			}
			// The rows stand in reverse behind one that nobody wants.
			var rows []int64
			for i := range n {
				at := int(n - 1 - i)
				m.Modulate(s, looked.Modulations, int(1+i), s.Narrow(steps, 0, at, 1), s.Narrow(cond.Labels, 0, at, 1))
				rows = append(rows, n-i)
			}
			looked.Rows = torch.From(s, rows, int(n))
			got := m.Forward(s, x, nil, looked)
			limit := tolerance
			if dt == torch.BFloat16 {
				limit = 1.0 / 64 // products of one row may round otherwise than those of several, by 2^-8 of a number
			}
			if e := torchtest.Relative(s, got, want); !(e < limit) {
				t.Errorf("%v: relative error %.2g", dt, e)
			}
			for i := range rows {
				rows[i] = 1 + (rows[i] % n)
			}
			looked.Rows = torch.From(s, rows, int(n))
			if e := torchtest.Relative(s, m.Forward(s, x, nil, looked), want); !(e > limit) {
				t.Errorf("%v: other rows change nothing", dt)
			}
		}
	})
}

// What a row holds depends on what is computed with it alone, not on where it stands.
func TestModulationsDependOnTheirChunk(t *testing.T) {
	cfg := tiny(t)
	torchtest.Run(t, func(s *torch.Scope) error {
		m := load(t, s, cfg, torchtest.Open(t, "testdata/tiny.safetensors"))
		s = s.NoGrad()
		const steps = 5
		at := torch.From(s, []int64{0, 3, 500, 700, 999}, steps)
		rowsOf := func(labels ...int64) (rows [][]byte) {
			all := m.NewModulations(s, steps*len(labels))
			for i, label := range labels {
				m.Modulate(s, all, i*steps, at, torch.From(s, []int64{label, label, label, label, label}, steps))
			}
			for i := range labels {
				rows = append(rows, s.Contiguous(s.Narrow(all.table, 0, i*steps, steps)).Bytes())
			}
			return rows
		}
		alone, among := rowsOf(2)[0], rowsOf(0, 1, 2)
		if !bytes.Equal(alone, among[2]) || bytes.Equal(alone, among[1]) {
			t.Error("the modulations of a label depend on the others")
		}
		return nil
	})
}

// A plainAdaptive is a block of another package that takes the vector itself.
type plainAdaptive struct {
	Linear nn.Linear `dit:"linear"`
}

func (b *plainAdaptive) Forward(s *torch.Scope, x *torch.Tensor, c Conditioning) *torch.Tensor {
	return s.Add(x, s.Unsqueeze(b.Linear.Forward(s, c.Vector), 1))
}

func (b *plainAdaptive) Init(*torch.Scope, *torch.Generator) {}

func (b *plainAdaptive) Cost(float64, float64) nn.Cost { return nn.Cost{} }

func TestModulationsOfOtherBlocks(t *testing.T) {
	cfg := tiny(t)
	cfg.Block = "plain"
	design := Design{Kind: "plain", Adaptive: true, New: func(s *torch.Scope, cfg Config) Layer {
		return &plainAdaptive{nn.NewLinear(s, cfg.HiddenSize, cfg.HiddenSize)}
	}}
	torchtest.Run(t, func(s *torch.Scope) error {
		m, err := New(s, cfg, design)
		if err != nil {
			return err
		}
		defer nn.Close(m)
		for i, p := range nn.List(m) {
			if err := torchtest.PhiloxWeights(p.Tensor, i, 0, 0); err != nil {
				return err
			}
		}
		s = s.NoGrad()
		x := s.Ones(torch.Float32, 1, cfg.InChannels, cfg.InputSize, cfg.InputSize)
		at, y := torch.From(s, []int64{5}, 1), torch.From(s, []int64{1}, 1)
		all := m.NewModulations(s, 1)
		m.Modulate(s, all, 0, at, y)
		looked := Condition{Modulations: all, Rows: torch.From(s, []int64{0}, 1)}
		want := m.Forward(s, x, at, Condition{Labels: y})
		if e := torchtest.Relative(s, m.Forward(s, x, nil, looked), want); !(e < tolerance) {
			t.Errorf("relative error %.2g", e)
		}
		return nil
	})
}
