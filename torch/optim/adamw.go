// Package optim holds the optimizer: AdamW with gradient clipping and an exponential moving average
// of the weights, one call into C++ a step, nothing read back from the device.
//
//	opt, err := optim.NewAdamW(nn.List(model), optim.DefaultConfig, optim.Sharding{})
//	defer opt.Close()
//	s.Backward(loss)
//	opt.Step(s, optim.StepOptions{LR: s.Full(1e-4, torch.Float64), EMADecay: s.Full(0.9999, torch.Float64)})
package optim

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
	"github.com/ditrun/ditrun/torch/internal/native"
	"github.com/ditrun/ditrun/torch/nn"
)

var lent = native.Borrow[*torch.Scope, *torch.Tensor, torch.Device]()

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
	fused    native.AdamW[*torch.Scope, *torch.Tensor]
	snapshot atomic.Bool // one is open
}

// Sharding says how the ranks of a group train one model together. The zero value is for a process
// that trains alone.
type Sharding struct {
	// Group is nil for a process alone. It must stay open as long as the optimizer is used. Where a call
	// fails because of another rank, dist.Group.Fail says which.
	Group *dist.Group
	// BucketBytes is about how many bytes of gradients travel at a time; 0 is 25 MiB.
	BucketBytes int
	// Plain makes each rank keep and update everything. The default is ZeRO-1 (Rajbhandari et al. 2020):
	// moments and averages are shared out, each rank updates its share of the weights and sends it to
	// the others.
	Plain bool
}

const defaultBucketBytes = 25 << 20

// NewAdamW makes an optimizer over params, whose storage it moves into one flat buffer: views taken
// of them before stay behind. In a group, all ranks take the first one's values, and all must make the
// same calls. The average starts as a copy of the parameters. It panics with a *torch.Error where a
// parameter is closed.
func NewAdamW(params []nn.Param, cfg Config, share Sharding) (*AdamW, error) {
	return newAdamW(params, cfg, share, share.Group.Native())
}

// newAdamW takes the group that share.Group stands for, in a test another one.
func newAdamW(params []nn.Param, cfg Config, share Sharding, group native.Group[*torch.Tensor]) (*AdamW, error) {
	tensors, names := make([]*torch.Tensor, len(params)), make([]string, len(params))
	for i, p := range params {
		tensors[i], names[i] = p.Tensor, p.Name
	}
	bucket := cmp.Or(share.BucketBytes, defaultBucketBytes)
	if bucket < 0 {
		return nil, fmt.Errorf("adamw: buckets of %d bytes, want a positive number", bucket)
	}
	o := &AdamW{params: params,
		layout: newLayout(params, bucket/4, share.Group.Rank(), share.Group.World(), group != nil && !share.Plain)}
	var err error
	o.fused, err = lent.NewAdamW(tensors, native.AdamWConfig[*torch.Tensor]{
		Beta1: cfg.Beta1, Beta2: cfg.Beta2, Eps: cfg.Eps, WeightDecay: cfg.WeightDecay,
		Names: names, Offsets: o.layout.offsets, Buckets: o.layout.buckets(), Total: o.layout.total,
		Group: group, Plain: share.Plain,
	})
	if err != nil {
		return nil, fmt.Errorf("adamw: %w", err)
	}
	return o, nil
}

// Close frees the optimizer's state. The parameters stay, and so does an open [Snapshot]. All other
// methods fail after it, and where the group is closed: those without an error result panic with a
// *torch.Error.
func (o *AdamW) Close() { o.fused.Close() }

// LastBackward says that the backward pass that follows is the last one before the step. In a group,
// gradients then travel during that pass: those of a bucket as soon as each of its parameters has got one,
// to which the pass must add nothing after that. Without this call they travel in [AdamW.Step]. Between the two
// calls the ranks use the group for nothing else.
func (o *AdamW) LastBackward() { o.fused.LastBackward() }

// StepOptions says how a step is made. LR and EMADecay are Float64 scalars on the device, as they change from step to
// step, which may be captured ([torch.Scope.Capture]): they come by a [torch.Feed], or from [torch.Scope.Full].
type StepOptions struct {
	LR       *torch.Tensor
	MaxNorm  float64       // greater than 0: gradients are scaled down to this total norm
	EMADecay *torch.Tensor // the average becomes EMADecay average + (1 - EMADecay) parameters; nil: it stays
	Skip     *torch.Tensor // Float32 scalar on the device, 1 on any rank to skip the step; nil is 0
}

// StepResult says what a step did, in Float32 scalars on the device.
type StepResult struct {
	Norm    *torch.Tensor // of the gradients, before clipping
	Skipped *torch.Tensor // 1 where the step was skipped, else 0
}

// Step applies the gradients and forgets them. A step whose gradients have a norm that is not finite,
// or for which Skip is 1, changes nothing: weights, moments, step count and average keep their bits.
// A parameter without a gradient keeps its value too.
//
// In a group the gradients are averaged over the ranks, so the loss of a rank is the mean over its
// samples; every trained parameter must have one on every rank. Norms are those of the averaged
// gradients and of all weights; results are equal on all ranks.
func (o *AdamW) Step(s *torch.Scope, opt StepOptions) StepResult {
	var r StepResult
	r.Norm, r.Skipped = o.fused.Step(s, native.Step[*torch.Tensor](opt))
	return r
}

// Watch copies the trained weights as they are, for [AdamW.Change] after a step.
func (o *AdamW) Watch() { o.fused.Watch() }

// Change returns the norm of the change of the weights since Watch, Float32, whose copy it frees. In a group all ranks
// call both, and the norm is that of all weights.
func (o *AdamW) Change(s *torch.Scope) *torch.Tensor { return o.fused.Change(s) }

// Copies returns the parameters, those that are trained and that which picks as copies in BFloat16. A forward pass
// that takes these casts no weights: steps keep them equal to the parameters, and so do [AdamW.Load] and
// [State.Restore]. They require gradients, which the steps take for those of the parameters: the engine need not cast
// them. Since BFloat16 would round their sums, there must be one backward pass a step, and a process alone. The copies
// belong to s.
func (o *AdamW) Copies(s *torch.Scope, which func(nn.Param) bool) []nn.Param {
	out := slices.Clone(o.params)
	for i, p := range o.params {
		if p.Tensor.RequiresGrad() && which(p) {
			out[i].Tensor = o.fused.Copy(s, i)
		}
	}
	return out
}

// ExposeGrad lets torch.Scope.Grad return the gradients of this rank since the last step, to look for what is
// wrong with them; ZeroGrad must follow. A process alone without [AdamW.Copies] needs no such call.
func (o *AdamW) ExposeGrad() { o.fused.ExposeGrad() }

// ZeroGrad forgets the gradients without applying them.
func (o *AdamW) ZeroGrad() { o.fused.ZeroGrad() }
