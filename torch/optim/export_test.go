package optim

import (
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/internal/native"
	"github.com/ditrun/ditrun/torch/nn"
)

// NewAdamWIn is NewAdamW in a group that package dist does not open.
var NewAdamWIn = newAdamW

// State returns what [Snapshot.Optimizer] saves, as views in s of the optimizer's own tensors.
func (o *AdamW) State(s *torch.Scope) []nn.Param {
	out := []nn.Param{{Name: stepName, Tensor: o.fused.Buffer(s, native.StepCount)}}
	m, v := o.fused.Buffer(s, native.ExpAvg), o.fused.Buffer(s, native.ExpAvgSq)
	for _, p := range o.layout.moments() {
		like := o.params[p.param]
		out = append(out, nn.Param{Name: expAvg + like.Name, Tensor: view(s, m, p, like.Tensor)},
			nn.Param{Name: expAvgSq + like.Name, Tensor: view(s, v, p, like.Tensor)})
	}
	return out
}
