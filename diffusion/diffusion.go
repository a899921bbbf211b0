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

// Times returns the times that a solver asks a model about in each of its steps, for samples of so many channels: a
// tensor [Steps] for each question of a step.
func Times(s *torch.Scope, solver Solver, channels int) (times []*torch.Tensor) {
	s = s.NoGrad()
	n := solver.Steps()
	x := s.Zeros(torch.Float32, n, channels, 1, 1)
	record := func(_ *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		times = append(times, t)
		return x
	}
	solver.Step(s, record, solver.Start(s, x), x, s.Arange(n, torch.Int64)) // a sample at each step
	return times
}

// A Drawing is a batch of samples on its way from noise to data. All of it is on the device and stays at its place, so
// that one step after the other can be made by a graph ([torch.Scope.Capture]).
type Drawing struct {
	// K is the number of the next step, Int64 [1].
	K      *torch.Tensor
	solver Solver
	state  State
}

// Begin starts samples at noise [N, C, H, W], from which every solver starts. They belong to s.
func Begin(s *torch.Scope, solver Solver, noise *torch.Tensor) *Drawing {
	s = s.NoGrad()
	return &Drawing{s.Zeros(torch.Int64, 1), solver, copies(s, solver.Start(s, noise))}
}

// Restart starts other samples of the same number in their place.
func (d *Drawing) Restart(s *torch.Scope, noise *torch.Tensor) {
	s.Zero_(d.K)
	s.NoGrad().SubAll(func(s *torch.Scope) []*torch.Tensor {
		d.overwrite(s, d.solver.Start(s, noise))
		return nil
	})
}

// Step makes the next step. noise has the samples' shape; it is nil where the solver is not random.
func (d *Drawing) Step(s *torch.Scope, model Denoiser, noise *torch.Tensor) {
	s.NoGrad().SubAll(func(s *torch.Scope) []*torch.Tensor {
		k := s.Clamp(s.Expand(d.K, d.X().Dim(0)), 0, float64(d.solver.Steps()-1))
		d.overwrite(s, d.solver.Step(s, model, d.state, noise, k))
		s.Copy_(d.K, s.Add(d.K, s.Ones(torch.Int64, 1)))
		return nil
	})
}

// X returns the samples, which the next step overwrites.
func (d *Drawing) X() *torch.Tensor { return d.state.X() }

// State returns all that the drawing consists of, which the next step overwrites: where it is put back, so is the
// drawing.
func (d *Drawing) State() []*torch.Tensor { return append([]*torch.Tensor{d.K}, d.state...) }

// overwrite puts what solver gave in the place of the state.
func (d *Drawing) overwrite(s *torch.Scope, with State) {
	if len(with) > 1 {
		with = copies(s, with) // what is remembered of a step may be a part of the state before
	}
	for i, t := range with {
		s.Copy_(d.state[i], t)
	}
}

func copies(s *torch.Scope, of State) State {
	c := make(State, len(of))
	for i, t := range of {
		c[i] = s.Clone(t)
	}
	return c
}

// Sample draws data from noise [N, C, H, W], with nothing but the solver and the model: for tests, and for programs
// with a model of their own. Package sampling has a loop that also captures steps and changes labels from batch to
// batch. stepNoise gives the noise of a step whose number is k, one element, and is not called for a solver that adds
// none. after is called when so many steps are done; its error ends the run.
func Sample(s *torch.Scope, solver Solver, model Denoiser, noise *torch.Tensor,
	stepNoise func(s *torch.Scope, k *torch.Tensor) *torch.Tensor, after func(done int) error) (*torch.Tensor, error) {
	s = s.NoGrad()
	d := Begin(s, solver, noise)
	for k := range solver.Steps() {
		s.Sub(func(s *torch.Scope) *torch.Tensor {
			var z *torch.Tensor
			if solver.Random() {
				z = stepNoise(s, d.K)
			}
			d.Step(s, model, z)
			return nil
		})
		if err := after(k + 1); err != nil {
			return nil, err
		}
	}
	return d.X(), nil
}
