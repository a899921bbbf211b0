package solver

import (
	"fmt"
	"math"
	"slices"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/flow"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// Tolerance is how exact dopri5 is.
type Tolerance struct {
	Absolute, Relative float64 // 0 stands for SiT's 1e-6 and 1e-3
	// WholeBatch measures errors over the batch, so that all its samples take the same steps, and what becomes of one
	// depends on the others. torchdiffeq does that.
	WholeBatch bool
}

// Dopri5 follows a probability flow by the method of Dormand and Prince with the steps that torchdiffeq chooses, each
// sample by its own error. [Dopri5.Solve] does all of it.
//
// A step of it is one attempt of all samples, six calls of the network; the first step has two more. A sample that has
// arrived stays as it is. Like the original it goes on beyond the end and interpolates, so the network is asked about
// times outside of 0 to 1.
type Dopri5 struct {
	path       schedule.Path
	prediction schedule.Prediction
	start, end float64
	Tolerance
}

// The tableau of Dormand, Prince and Shampine. The weights of the step are the last row of dopriA.
var (
	dopriC = []float64{1. / 5, 3. / 10, 4. / 5, 8. / 9, 1, 1}
	dopriA = [][]float64{
		{1. / 5},
		{3. / 40, 9. / 40},
		{44. / 45, -56. / 15, 32. / 9},
		{19372. / 6561, -25360. / 2187, 64448. / 6561, -212. / 729},
		{9017. / 3168, -355. / 33, 46732. / 5247, 49. / 176, -5103. / 18656},
		{35. / 384, 0, 500. / 1113, 125. / 192, -2187. / 6784, 11. / 84},
	}
	dopriError = []float64{35./384 - 1951./21600, 0, 500./1113 - 22642./50085, 125./192 - 451./720,
		-2187./6784 + 12231./42400, 11./84 - 649./6300, -1. / 60}
	dopriMiddle = []float64{6025192743. / 30085553152 / 2, 0, 51252292925. / 65400821598 / 2,
		-2691868925. / 45128329728 / 2, 187940372067. / 1594534317056 / 2, -1776094331. / 19743644256 / 2,
		11237099. / 235043384 / 2}
)

// mostAttempts bounds the steps of a sample that does not arrive.
const mostAttempts = 10000

func newDopri5(path schedule.Path, p schedule.Prediction, start, end float64, tolerance Tolerance,
) (*Dopri5, error) {
	if tolerance.Absolute == 0 {
		tolerance.Absolute = 1e-6
	}
	if tolerance.Relative == 0 {
		tolerance.Relative = 1e-3
	}
	if !(tolerance.Absolute > 0) || !(tolerance.Relative > 0) {
		return nil, fmt.Errorf("tolerances %v and %v: want positive numbers", tolerance.Absolute, tolerance.Relative)
	}
	return &Dopri5{path, p, start, end, tolerance}, nil
}

// Steps returns the most attempts that are made; [Dopri5.Arrived] says when there is nothing left to do.
func (v *Dopri5) Steps() int { return mostAttempts }

// Random reports false.
func (v *Dopri5) Random() bool { return false }

// What the state holds besides x. Times are Float64 [N] and rise: where the path's own time falls they are minus it.
const (
	dopriF  = iota + 1 // dx/dt at x
	dopriT             // the time of x
	dopriDT            // the step to try next
)

// Start returns the state before the first step, x alone.
func (v *Dopri5) Start(_ *torch.Scope, noise *torch.Tensor) diffusion.State {
	return diffusion.State{noise}
}

func (v *Dopri5) sign() float64 {
	if v.end < v.start {
		return -1
	}
	return 1
}

// arrived says which samples have times at the end or behind it.
func (v *Dopri5) arrived(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	end := v.sign() * v.end
	return s.GtScalar(t, math.Nextafter(end, end-1))
}

// before returns the numbers next to t [N] below it in Float32: the network is asked just before the end of a step.
func before(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	exact := s.To(t, torch.Float64)
	// A little more than half of the distance between two numbers is rounded to the whole of it.
	return s.To(s.Subtract(exact, s.MulScalar(s.Abs(exact), 0x1.01p-24)), t.DType())
}

// velocity is dx/dt at times t.
func (v *Dopri5) velocity(s *torch.Scope, model diffusion.Denoiser, x, t *torch.Tensor) *torch.Tensor {
	told := s.To(s.MulScalar(t, v.sign()), torch.Float32)
	output := model(s, s.To(x, torch.Float32), told)
	if c := x.Dim(1); output.Dim(1) > c {
		output = s.Narrow(output, 1, 0, c)
	}
	f := s.To(output, x.DType())
	if v.prediction != schedule.Velocity {
		f = flow.At(s, v.path, told).Velocity(s, v.prediction, x, f)
	}
	return s.MulScalar(f, v.sign())
}

// norm is the root of the mean of the squares of x [N, ...], Float64 [N].
func (v *Dopri5) norm(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	square := s.Reshape(s.Square(s.To(x, torch.Float64)), x.Dim(0), -1)
	if v.WholeBatch {
		return s.PowScalar(s.Expand(s.Reshape(s.Mean(square), 1), x.Dim(0)), 0.5)
	}
	return s.PowScalar(s.MeanDims(square, false, 1), 0.5)
}

// column returns [N, 1, ...], the shape of numbers of samples x [N, ...] that broadcasts to theirs.
func column(x *torch.Tensor) []int {
	dims := slices.Repeat([]int{1}, x.Rank())
	dims[0] = x.Dim(0)
	return dims
}

// wide makes v [N] multiply samples x [N, ...].
func wide(s *torch.Scope, v, x *torch.Tensor) *torch.Tensor {
	return s.Reshape(s.To(v, x.DType()), column(x)...)
}

// scale is how large an error of a sample with the magnitude of x may be.
func (v *Dopri5) scale(s *torch.Scope, x *torch.Tensor) *torch.Tensor {
	return s.AddScalar(s.MulScalar(s.To(s.Abs(x), torch.Float64), v.Relative), v.Absolute)
}

func minimum(s *torch.Scope, a, b *torch.Tensor) *torch.Tensor {
	return s.Neg(s.Maximum(s.Neg(a), s.Neg(b)))
}

// begin chooses the first step (Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, II.4).
func (v *Dopri5) begin(s *torch.Scope, model diffusion.Denoiser, x *torch.Tensor) diffusion.State {
	n := x.Dim(0)
	full := func(value float64) *torch.Tensor { return s.Full(value, torch.Float64, n) }
	t := full(v.sign() * v.start)
	f0 := v.velocity(s, model, x, t)
	scale := v.scale(s, x)
	size := func(y *torch.Tensor) *torch.Tensor { return v.norm(s, s.Div(s.To(y, torch.Float64), scale)) }
	d0, d1 := size(x), size(f0)
	h0 := s.Where(s.LtScalar(minimum(s, d0, d1), 1e-5), full(1e-6), s.MulScalar(s.Div(d0, d1), 0.01))
	f1 := v.velocity(s, model, s.Add(x, s.Mul(wide(s, h0, x), f0)), s.Add(t, h0))
	d2 := s.Div(size(s.Subtract(f1, f0)), h0)
	most := s.Maximum(d1, d2)
	h1 := s.PowScalar(s.Div(full(0.01), most), 1./5)
	h1 = s.Where(s.GtScalar(most, 1e-15), h1, s.Maximum(full(1e-6), s.MulScalar(h0, 1e-3)))
	return diffusion.State{x, f0, t, minimum(s, s.MulScalar(h0, 100), h1)}
}

// Step is [diffusion.Solver]'s: one attempt. It does not look at k.
func (v *Dopri5) Step(s *torch.Scope, model diffusion.Denoiser, state diffusion.State, _, _ *torch.Tensor,
) diffusion.State {
	if len(state) == 1 {
		state = v.begin(s, model, state.X())
	}
	x, t, dt := state.X(), state[dopriT], state[dopriDT]
	h := wide(s, dt, x)
	k := []*torch.Tensor{state[dopriF]}
	// along is h times the weighted sum of what the network has said so far. The error of a small step is rounding
	// alone, and the next step depends on it, so this adds as torch.sum does: the first, those from the fifth on, then
	// the others.
	along := func(weights []float64) *torch.Tensor {
		total := s.Mul(s.MulScalar(h, weights[0]), k[0])
		for _, i := range []int{4, 5, 6, 1, 2, 3} {
			if i < len(weights) && weights[i] != 0 {
				total = s.Add(total, s.Mul(s.MulScalar(h, weights[i]), k[i]))
			}
		}
		return total
	}
	var y *torch.Tensor
	after := s.Add(t, dt)
	for i, weights := range dopriA {
		at := s.Add(s.To(t, x.DType()), s.MulScalar(s.To(dt, x.DType()), dopriC[i]))
		if dopriC[i] == 1 {
			at = before(s, s.To(after, x.DType()))
		}
		y = s.Add(x, along(weights))
		k = append(k, v.velocity(s, model, y, at))
	}
	size := s.Div(s.To(along(dopriError), torch.Float64), v.scale(s, s.Maximum(s.Abs(x), s.Abs(y))))
	ratio := v.norm(s, size)
	// An error that is no number is a step too far, such as one beyond the end of VP, where sigma is none. It stands
	// for a large one, so that the step becomes a fifth; the original gives up.
	ratio = s.Where(s.IsFinite(ratio), ratio, s.Full(1e10, torch.Float64, 1))
	one := s.Ones(torch.Float64, 1)
	accept := s.LtScalar(ratio, math.Nextafter(1, 2))
	factor := s.MulScalar(s.PowScalar(ratio, -1./5), 0.9)
	factor = s.Maximum(factor, s.Where(s.LtScalar(ratio, 1), one, s.MulScalar(one, 0.2)))
	next := s.Mul(dt, s.Clamp(factor, 0, 10))

	end := s.Full(v.sign()*v.end, torch.Float64, 1)
	arrived, arrives := v.arrived(s, t), v.arrived(s, after)

	// The quartic through both ends, their slopes and the middle.
	f0, f1, middle := k[0], k[len(k)-1], s.Add(x, along(dopriMiddle))
	quartic := func(f0w, f1w, x0w, x1w, mw float64) *torch.Tensor {
		slopes := s.Mul(h, s.Add(s.MulScalar(f0, f0w), s.MulScalar(f1, f1w)))
		return s.Add(s.Add(slopes, s.MulScalar(x, x0w)), s.Add(s.MulScalar(y, x1w), s.MulScalar(middle, mw)))
	}
	at := wide(s, s.Div(s.Subtract(end, t), dt), x)
	there := s.Add(s.Mul(quartic(-2, 2, -8, -8, 16), at), quartic(5, -3, 18, 14, -32))
	there = s.Add(s.Mul(there, at), quartic(-4, 1, -11, -5, 16))
	there = s.Add(s.Mul(s.Add(s.Mul(there, at), s.Mul(h, f0)), at), x)

	// pick returns a where the condition [N] holds, else b.
	pick := func(condition, a, b *torch.Tensor) *torch.Tensor {
		return s.Where(s.Reshape(condition, column(a)...), a, b)
	}
	moved := pick(accept, pick(arrives, there, y), x)
	return diffusion.State{
		pick(arrived, x, moved),
		pick(arrived, f0, pick(accept, f1, f0)),
		pick(arrived, t, pick(accept, minimum(s, after, end), t)),
		pick(arrived, dt, next),
	}
}

// Arrived says whether all samples are at the end. It reads from the device. The error is of a sample that does not go
// on, as where the velocity is not finite.
func (v *Dopri5) Arrived(s *torch.Scope, state diffusion.State) (bool, error) {
	if len(state) == 1 {
		return false, nil
	}
	t := state[dopriT]
	there := v.arrived(s, t)
	moves := s.GtScalar(s.Subtract(s.Add(t, state[dopriDT]), t), 0)
	flags := s.Stack([]*torch.Tensor{s.All(there), s.All(s.Where(there, there, moves))}, 0).Bytes()
	if flags[1] == 0 {
		return false, fmt.Errorf("dopri5: its step becomes nothing at time %v: the velocity is rough or not finite",
			s.MinAll(t).Item()*v.sign())
	}
	return flags[0] != 0, nil
}

// Solve runs noise through the flow. after is called when so many attempts are done; its error ends the run.
func (v *Dopri5) Solve(s *torch.Scope, model diffusion.Denoiser, noise *torch.Tensor, after func(done int) error,
) (*torch.Tensor, error) {
	s = s.NoGrad()
	state := v.Start(s, noise)
	for done := 0; ; done++ {
		if arrived, err := v.Arrived(s, state); arrived || err != nil {
			return state.X(), err
		}
		if done == v.Steps() {
			return nil, fmt.Errorf("dopri5: not at the end after %d steps: the velocity is rough", done)
		}
		last := state
		state = s.SubAll(func(s *torch.Scope) []*torch.Tensor { return v.Step(s, model, last, nil, nil) })
		if done > 0 {
			s.Release(last...)
		}
		if err := after(done + 1); err != nil {
			return nil, err
		}
	}
}
