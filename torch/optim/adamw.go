// Package optim holds the optimizer: AdamW with gradient clipping and an exponential moving average
// of the weights, one call into C++ a step, nothing read back from the device.
package optim

import (
	"fmt"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
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
	params []nn.Param
	fused  *torch.AdamW
}

// NewAdamW makes an optimizer over params, whose storage it moves into one flat buffer: views taken
// of them before stay behind. The average starts as a copy of the parameters.
func NewAdamW(params []nn.Param, cfg Config) (*AdamW, error) {
	tensors := make([]*torch.Tensor, len(params))
	for i, p := range params {
		tensors[i] = p.Tensor
	}
	fused, err := torch.NewAdamW(tensors, cfg.Beta1, cfg.Beta2, cfg.Eps, cfg.WeightDecay)
	if err != nil {
		return nil, fmt.Errorf("adamw: %w", err)
	}
	return &AdamW{params, fused}, nil
}

// Close frees the optimizer's state. The parameters stay.
func (o *AdamW) Close() { o.fused.Close() }

// Step applies the gradients with the learning rate lr and forgets them. With maxNorm > 0 the
// gradients are scaled down to that total norm before. With emaDecay >= 0 the average becomes
// emaDecay average + (1 - emaDecay) parameters. It returns the norm before clipping, a scalar on
// the device.
func (o *AdamW) Step(s *torch.Scope, lr, maxNorm, emaDecay float64) *torch.Tensor {
	return o.fused.Step(s, lr, maxNorm, emaDecay)
}

// ZeroGrad forgets the gradients without applying them.
func (o *AdamW) ZeroGrad() { o.fused.ZeroGrad() }

// EMA returns the averages under their parameters' names. They are views in s of the optimizer's
// buffer and change with it.
func (o *AdamW) EMA(s *torch.Scope) []nn.Param {
	out := make([]nn.Param, len(o.params))
	for i, p := range o.params {
		out[i] = nn.Param{Name: p.Name, Tensor: o.fused.EMA(s, i), Buffer: p.Buffer}
	}
	return out
}

// State returns the moments as exp_avg.NAME and exp_avg_sq.NAME and the count as step, views in s of
// the optimizer's own tensors. Frozen parameters have none.
func (o *AdamW) State(s *torch.Scope) []nn.Param {
	out := []nn.Param{{Name: "step", Tensor: o.fused.StepCount(s)}}
	for i, p := range o.params {
		m, v := o.fused.Moments(s, i)
		if m != nil {
			out = append(out, nn.Param{Name: "exp_avg." + p.Name, Tensor: m}, nn.Param{Name: "exp_avg_sq." + p.Name, Tensor: v})
		}
	}
	return out
}

// LoadState restores what [AdamW.State] gave and the averages (under the parameters' names).
func (o *AdamW) LoadState(s *torch.Scope, state, ema checkpoint.Source) error {
	if err := nn.LoadParams(s, o.State(s), state, false); err != nil {
		return fmt.Errorf("optimizer state: %w", err)
	}
	if err := nn.LoadParams(s, o.EMA(s), ema, false); err != nil {
		return fmt.Errorf("ema: %w", err)
	}
	return nil
}
