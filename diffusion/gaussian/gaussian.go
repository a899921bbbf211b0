// Package gaussian is the process of DiT: the Gaussian diffusion of Ho et al. 2020 with the learned variance of Nichol
// and Dhariwal 2021.
//
// Coefficients are computed in float64 (package schedule) and rounded to float32 where they meet a tensor, as in the
// original. x_0 is never clipped: latents are not pixels.
//
// Shape letters: N batch, C channels, H and W height and width.
package gaussian

import (
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// TrainSteps is the number of steps of the process that models are trained on.
const TrainSteps = 1000

// New returns the linear schedule of [TrainSteps] steps, respaced to those that spec keeps: "" for
// all, a number such as "250", "ddim50" for strides from zero, or a list of counts by section.
func New(spec string) (*schedule.Schedule, error) {
	full, err := schedule.New(schedule.LinearBetas(TrainSteps))
	if err != nil {
		return nil, err
	}
	use, err := schedule.Space(TrainSteps, spec)
	if err != nil {
		return nil, err
	}
	// Keeping all steps respaces too, as the original does: it moves the betas in their last bits.
	return full.Respace(use)
}

// The coefficients of a step: rows of a table with a column for each step.
const (
	sqrtAbar         = iota // x_t = sqrtAbar x_0 + sqrtOneMinusAbar eps
	sqrtOneMinusAbar        //
	sqrtRecip               // x_0 = sqrtRecip x_t - sqrtRecipM1 eps
	sqrtRecipM1             //
	meanOfX0                // the posterior's mean is meanOfX0 x_0 + meanOfXt x_t
	meanOfXt                //
	logVarLow               // bounds of the learned logarithm of the variance
	logVarHigh              //
	logVarFixed             // where it is not learned: FIXED_LARGE of the original
	numCoefficients
)

// A process has its tables in the memory of a device. They belong to the scope that they were made on.
type process struct {
	*schedule.Schedule
	coefficients *torch.Tensor // Float32 [numCoefficients, T]
	timesteps    *torch.Tensor // Int64 [T], what the network is told of a step: its number in training
}

func newProcess(s *torch.Scope, d *schedule.Schedule) process {
	// The first entry is the clipped posterior variance, the rest beta.
	fixed := append([]float64{d.PosteriorLogVarianceClipped[0]}, d.LogBetas[1:]...)
	rows := [numCoefficients][]float64{
		sqrtAbar: d.SqrtAlphasCumprod, sqrtOneMinusAbar: d.SqrtOneMinusAlphasCumprod,
		sqrtRecip: d.SqrtRecipAlphasCumprod, sqrtRecipM1: d.SqrtRecipM1AlphasCumprod,
		meanOfX0: d.PosteriorMeanCoef1, meanOfXt: d.PosteriorMeanCoef2,
		logVarLow: d.PosteriorLogVarianceClipped, logVarHigh: d.LogBetas, logVarFixed: fixed,
	}
	told := make([]int64, d.Len())
	for t, step := range d.TimestepMap {
		told[t] = int64(step)
	}
	return process{d, table(s, rows[:]...), torch.From(s, told, len(told))}
}

// table returns rows, rounded to Float32, as one tensor [len(rows), T].
func table(s *torch.Scope, rows ...[]float64) *torch.Tensor {
	flat := make([]float32, 0, len(rows)*len(rows[0]))
	for _, row := range rows {
		for _, v := range row {
			flat = append(flat, float32(v))
		}
	}
	return torch.From(s, flat, len(rows), len(rows[0]))
}

// Coefficients are those of steps t, a row of [N, 1, 1, 1] each.
type coefficients struct{ rows *torch.Tensor }

// lookUp picks columns t (Int64 [N]) of a table. It panics with a *torch.Error where one is out of range.
func lookUp(s *torch.Scope, table, t *torch.Tensor) coefficients {
	return coefficients{s.Reshape(s.IndexSelect(table, 1, t), table.Dim(0), t.Dim(0), 1, 1, 1)}
}

func (c coefficients) row(s *torch.Scope, i int) *torch.Tensor { return s.Select(c.rows, 0, i) }

// told returns what the network is told of steps t.
func (p process) told(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	return s.IndexSelect(p.timesteps, 0, t)
}

// noised is sqrt(abar) x0 + sqrt(1 - abar) noise (q_sample of the original).
func noised(s *torch.Scope, k coefficients, x0, noise *torch.Tensor) *torch.Tensor {
	return s.Add(s.Mul(k.row(s, sqrtAbar), x0), s.Mul(k.row(s, sqrtOneMinusAbar), noise))
}

// A prediction is what a model's output says about step t-1.
type prediction struct {
	x0, eps      *torch.Tensor // [N, C, H, W]
	mean, logVar *torch.Tensor // of the reverse step; logVar broadcasts to [N, C, H, W]
}

// predict reads a model's output at x, whose coefficients are k (p_mean_variance of the original). With 2C channels
// the second half v interpolates the logarithm of the variance between its bounds; with C the
// variance is the upper bound.
func predict(s *torch.Scope, output, x *torch.Tensor, k coefficients) prediction {
	c := x.Dim(1)
	p := prediction{eps: output, logVar: k.row(s, logVarFixed)}
	if output.Dim(1) == 2*c {
		p.eps = s.Narrow(output, 1, 0, c)
		v := s.Narrow(output, 1, c, c)
		frac := s.MulScalar(s.AddScalar(v, 1), 0.5)
		one := s.Ones(torch.Float32, 1)
		p.logVar = s.Add(s.Mul(frac, k.row(s, logVarHigh)), s.Mul(s.Subtract(one, frac), k.row(s, logVarLow)))
	}
	p.x0 = s.Subtract(s.Mul(k.row(s, sqrtRecip), x), s.Mul(k.row(s, sqrtRecipM1), p.eps))
	p.mean = s.Add(s.Mul(k.row(s, meanOfX0), p.x0), s.Mul(k.row(s, meanOfXt), x))
	return p
}
