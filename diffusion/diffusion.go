// Package diffusion is the frame that every process of diffusion fits into: what a model is trained on (an
// [Objective]) and how pictures are drawn with it (a [Solver]). The processes themselves are in the packages below:
// gaussian has DiT's. Neither the training loop nor the sampling pipeline knows which one it works with, and none of
// this knows a model: it works on a [Denoiser].
//
// Nothing here is computed on the host from one step to the next: times and step numbers are tensors on the device, one
// a sample, and coefficients are looked up there. So a step can be captured ([torch.Scope.Capture]), and samples at
// different steps can share a pass through the model.
//
// Shape letters: N batch, C channels, H and W height and width.
package diffusion

import "github.com/ditrun/ditrun/torch"

// A Denoiser predicts from x [N, C, H, W] at times t [N], in the units of its process, what the process asks for: with
// learned variance, C more channels.
type Denoiser func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor

// Losses are the terms of each sample, [N]. The training loss is the mean of Total.
type Losses struct {
	Total *torch.Tensor // what gradients are of
	MSE   *torch.Tensor // mean squared error of the prediction
	VB    *torch.Tensor // variational bound in bits, which trains the variance alone; nil without it
}

// An Objective is what a model is trained on.
type Objective interface {
	// Time maps uniform numbers u (Float64 [N], in [0, 1)) to the times that samples are trained at, [N].
	Time(s *torch.Scope, u *torch.Tensor) *torch.Tensor
	// Noisiness says where times t lie between data, 0, and noise, below 1: Float64 [N]. Losses are told apart by it.
	Noisiness(s *torch.Scope, t *torch.Tensor) *torch.Tensor
	// Losses mixes x0 [N, C, H, W] with noise to the times t and scores the prediction of model.
	Losses(s *torch.Scope, model Denoiser, x0, noise, t *torch.Tensor) Losses
}

// A State is what a solver keeps of the samples it draws: x [N, C, H, W], and what it remembers of earlier steps, each
// [N, ...].
type State []*torch.Tensor

// X returns the samples themselves.
func (x State) X() *torch.Tensor { return x[0] }

// A Solver makes data of noise.
type Solver interface {
	// Steps is their number.
	Steps() int
	// Random says whether steps add noise.
	Random() bool
	// Start returns the state of samples that begin at noise [N, C, H, W].
	Start(s *torch.Scope, noise *torch.Tensor) State
	// Step makes step k of each sample (Int64 [N], from 0 to Steps()-1). noise has x's shape; it is nil where the
	// solver is not random.
	Step(s *torch.Scope, model Denoiser, x State, noise, k *torch.Tensor) State
}

// Sample draws data from noise [N, C, H, W], from which every solver starts. stepNoise gives the noise of a step whose
// number is k, one element, and is not called for a solver that adds none. after is called when so many steps are done;
// its error ends the run.
func Sample(s *torch.Scope, solver Solver, model Denoiser, noise *torch.Tensor,
	stepNoise func(s *torch.Scope, k *torch.Tensor) *torch.Tensor, after func(done int) error) (*torch.Tensor, error) {
	s = s.NoGrad()
	x := solver.Start(s, noise)
	for k := range solver.Steps() {
		last := x
		x = s.SubAll(func(s *torch.Scope) []*torch.Tensor {
			at := torch.From(s, []int64{int64(k)}, 1)
			var z *torch.Tensor
			if solver.Random() {
				z = stepNoise(s, at)
			}
			ks := s.Clamp(s.Expand(at, noise.Dim(0)), 0, float64(solver.Steps()-1))
			return solver.Step(s, model, last, z, ks)
		})
		if k > 0 {
			s.Release(last...)
		}
		if err := after(k + 1); err != nil {
			return nil, err
		}
	}
	return x.X(), nil
}
