package dit

import (
	"slices"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// Modulations are what adaptive norms take of timesteps and classes, computed before pictures are drawn: they do not
// depend on the latents, so that all steps of all pictures of a class share them. See [Condition].
type Modulations struct {
	table   *torch.Tensor         // [R, K]: of each row the vector, then what each layer makes of it
	columns map[*torch.Tensor]int // where that of a layer begins, by its weights
}

// A modulated layer has a linear layer for the modulation of its adaptive norms.
type modulated interface{ modulation() *nn.Linear }

func (b *Block) modulation() *nn.Linear      { return &b.AdaLN }
func (b *AdaLNBlock) modulation() *nn.Linear { return &b.AdaLN }
func (f *FinalLayer) modulation() *nn.Linear { return &f.AdaLN }

// modulations lists the linear layers whose results can be computed before.
func (m *DiT) modulations() (layers []*nn.Linear) {
	if !m.design.Adaptive {
		return nil
	}
	for _, l := range append(slices.Clone(m.Blocks), m.Final) {
		if l, ok := l.(modulated); ok {
			layers = append(layers, l.modulation())
		}
	}
	return layers
}

// ModulationBytes is what a row of [Modulations] takes, 0 for a model that has none.
func (m *DiT) ModulationBytes() int64 {
	layers := m.modulations()
	if len(layers) == 0 {
		return 0
	}
	width := m.cfg.HiddenSize
	for _, l := range layers {
		width += l.Weight.Dim(0)
	}
	return int64(width) * int64(m.compute.Size())
}

// NewModulations makes room for so many rows, in s. The model must have some.
func (m *DiT) NewModulations(s *torch.Scope, rows int) *Modulations {
	columns, width := map[*torch.Tensor]int{}, m.cfg.HiddenSize
	for _, l := range m.modulations() {
		columns[l.Weight] = width
		width += l.Weight.Dim(0)
	}
	return &Modulations{s.Zeros(m.compute, rows, width), columns}
}

// Modulate computes rows first to first+n-1 of timesteps t [n] and, where the model has classes, labels y (Int64 [n]).
// Matrix products of another n round otherwise.
func (m *DiT) Modulate(s *torch.Scope, of *Modulations, first int, t, y *torch.Tensor) {
	s.NoGrad().Sub(func(s *torch.Scope) *torch.Tensor {
		c := m.vector(s, t, y)
		parts := []*torch.Tensor{c}
		for _, l := range m.modulations() {
			parts = append(parts, l.Forward(s, s.SiLU(c)))
		}
		s.Copy_(s.Narrow(of.table, 0, first, t.Dim(0)), s.Cat(parts, 1))
		return nil
	})
}

// Modulation is what a linear layer makes of Vector, [N, K D] for K vectors: the shifts, scales and gates of a layer.
func (c Conditioning) Modulation(s *torch.Scope, l *nn.Linear) *torch.Tensor {
	if at, ok := c.columns[l.Weight]; ok {
		return s.Narrow(c.rows, 1, at, l.Weight.Dim(0))
	}
	return l.Forward(s, s.SiLU(c.Vector))
}
