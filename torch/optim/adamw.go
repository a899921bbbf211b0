// Package optim holds the optimizer: AdamW with gradient clipping and an exponential moving average
// of the weights, one call into C++ a step, nothing read back from the device.
package optim

import (
	"fmt"
	"sync/atomic"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
)

// Config holds AdamW's constants (Loshchilov and Hutter 2019).
type Config struct {
	Beta1, Beta2, Eps, WeightDecay float64
}

// DefaultConfig is the DiT paper's: PyTorch's betas and epsilon, no weight decay.
var DefaultConfig = Config{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8}

// AdamW owns the moments and the average of a model's parameters. Parameters that do not require
// gradients are averaged but not trained, as in the original.
type AdamW struct {
	params   []nn.Param
	layout   *layout
	fused    *torch.AdamW
	snapshot atomic.Bool // one is open
}

// NewAdamW makes an optimizer over params, whose storage it moves into one flat buffer: views taken
// of them before stay behind. The average starts as a copy of the parameters.
func NewAdamW(params []nn.Param, cfg Config) (*AdamW, error) {
	tensors := make([]*torch.Tensor, len(params))
	for i, p := range params {
		tensors[i] = p.Tensor
	}
	o := &AdamW{params: params, layout: newLayout(params)}
	var err error
	o.fused, err = torch.NewAdamW(tensors, torch.AdamWConfig{
		Beta1: cfg.Beta1, Beta2: cfg.Beta2, Eps: cfg.Eps, WeightDecay: cfg.WeightDecay,
		Offsets: o.layout.offsets, Trained: o.layout.trained, Total: o.layout.total,
	})
	if err != nil {
		return nil, fmt.Errorf("adamw: %w", err)
	}
	return o, nil
}

// Close frees the optimizer's state. The parameters stay, and so does an open [Snapshot].
func (o *AdamW) Close() { o.fused.Close() }

// StepOptions says how a step is made.
type StepOptions struct {
	LR         float64
	MaxNorm    float64       // greater than 0: gradients are scaled down to this total norm
	EMADecay   float64       // the average becomes EMADecay average + (1 - EMADecay) parameters; below 0 it stays
	Skip       *torch.Tensor // Float32 scalar on the device, 1 to skip the step; nil is 0
	UpdateNorm bool          // find the norm of the change, for one more copy of the weights meanwhile
}

// StepResult says what a step did, in Float32 scalars on the device.
type StepResult struct {
	Norm       *torch.Tensor // of the gradients, before clipping
	Skipped    *torch.Tensor // 1 where the step was skipped, else 0
	UpdateNorm *torch.Tensor // of the change of the weights; nil unless asked for
}

// Step applies the gradients and forgets them. A step whose gradients have a norm that is not finite,
// or for which Skip is 1, changes nothing: weights, moments, step count and average keep their bits.
// A parameter without a gradient keeps its value too.
func (o *AdamW) Step(s *torch.Scope, opt StepOptions) StepResult {
	var r StepResult
	r.Norm, r.Skipped, r.UpdateNorm = o.fused.Step(s, torch.AdamWStep(opt))
	return r
}

// ZeroGrad forgets the gradients without applying them.
func (o *AdamW) ZeroGrad() { o.fused.ZeroGrad() }
