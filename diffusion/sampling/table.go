package sampling

import (
	"slices"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// A table holds modulations for all steps of some classes. Those of a class are computed together, always at the same
// times, so that they do not depend on which other classes are drawn.
type table struct {
	model *dit.DiT
	of    *dit.Modulations
	// times are those of all steps, [T], for each question that the solver asks in a step. A class has T rows for each.
	times  []*torch.Tensor
	labels []int64 // by place; empty ones have noLabel
	most   int     // classes that a batch may have
}

const noLabel = -1

// newTable makes room, in s, for the classes of each batch of d that fits. It returns nil where there is none.
func newTable(s *torch.Scope, d *drawing, solver diffusion.Solver) *table {
	row := d.model.ModulationBytes()
	if row == 0 || len(d.starts) == 0 { // dopri5 does not know its times
		return nil
	}
	t := &table{model: d.model, times: diffusion.Times(s, solver, d.model.Config().InChannels)}
	t.most = int(d.room / (row * int64(t.size())))
	places := 0
	for b := range d.batches() {
		if n := d.classes(d.bounds(b)); n <= t.most {
			places = max(places, n)
		}
	}
	if places == 0 {
		return nil
	}
	t.of = d.model.NewModulations(s, places*t.size())
	t.labels = slices.Repeat([]int64{noLabel}, places)
	return t
}

// forBatch returns t for a batch of so many classes, nil where they do not fit. That is decided by the batch alone: the
// bits of its pictures do not depend on what else is drawn.
func (t *table) forBatch(classes int) *table {
	if t == nil || classes > t.most {
		return nil
	}
	return t
}

// classes counts those of pictures lo to hi-1, with the null class under guidance; one for a model without classes.
func (d *drawing) classes(lo, hi int) int {
	labels := d.labelsOf(d.model.Config(), lo, hi)
	slices.Sort(labels)
	return len(slices.Compact(labels))
}

// steps is T.
func (t *table) steps() int { return t.times[0].Dim(0) }

// size is the number of rows of a class.
func (t *table) size() int { return len(t.times) * t.steps() }

// find returns the first row of each label. Those that the table lacks take the place of unused labels.
func (t *table) find(s *torch.Scope, labels []int64) []int64 {
	if !t.model.Config().HasClass() {
		labels = make([]int64, len(labels)) // all alike
	}
	used := map[int64]bool{}
	for _, label := range labels {
		used[label] = true
	}
	rows := make([]int64, len(labels))
	for i, label := range labels {
		place := slices.Index(t.labels, label)
		if place < 0 {
			place = slices.IndexFunc(t.labels, func(l int64) bool { return !used[l] })
			t.labels[place] = label
			t.fill(s, place, label)
		}
		rows[i] = int64(place * t.size())
	}
	return rows
}

// fill computes the rows of a label.
func (t *table) fill(s *torch.Scope, place int, label int64) {
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		y := torch.From(s, slices.Repeat([]int64{label}, t.steps()), t.steps())
		for i, at := range t.times {
			t.model.Modulate(s, t.of, place*t.size()+i*t.steps(), at, y)
		}
		return nil
	})
}

// rows are those of a question of step k, one element, for labels whose first rows are given, [m].
func (t *table) rows(s *torch.Scope, first, k *torch.Tensor, question int) *torch.Tensor {
	at := s.Add(first, k)
	if question > 0 {
		at = s.Add(at, s.Full(float64(question*t.steps()), torch.Int64, 1))
	}
	return s.Clamp(at, 0, float64(len(t.labels)*t.size()-1))
}

// roomForTable is how many bytes modulations may take. For a class and 250 steps those of DiT-XL/2 take 196 MB. What is
// free does not count, so that the same command does the same each time.
func roomForTable(dev torch.Device) int64 {
	const onCPU = 1 << 30
	if !dev.IsCUDA() {
		return onCPU
	}
	return dev.TotalMemory() / 8 // the rest is for weights and activations
}
