package gaussian

import (
	"math"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// solver is what DDPM and DDIM have in common. Step k goes from x at step t = T-1-k of the process to step t-1.
type solver struct {
	process
	first *torch.Tensor // Int64 [1], T-1
}

func newSolver(s *torch.Scope, d *schedule.Schedule) solver {
	return solver{newProcess(s, d), torch.From(s, []int64{int64(d.Len() - 1)}, 1)}
}

// Steps returns T.
func (v solver) Steps() int { return v.Len() }

// Start begins at x_T, which is noise.
func (v solver) Start(_ *torch.Scope, noise *torch.Tensor) diffusion.State {
	return diffusion.State{noise}
}

// at returns t for k.
func (v solver) at(s *torch.Scope, k *torch.Tensor) *torch.Tensor {
	return s.Clamp(s.Subtract(v.first, k), 0, float64(v.Len()-1))
}

// predict asks the model about x at step t.
func (v solver) predict(s *torch.Scope, model diffusion.Denoiser, x, t *torch.Tensor) (prediction, coefficients) {
	k := lookUp(s, v.coefficients, t)
	return predict(s, model(s, x, v.told(s, t)), x, k), k
}

// impliedNoise is the noise that leads from x0 to x, recomputed from x0 as the original does.
func impliedNoise(s *torch.Scope, x, x0 *torch.Tensor, k coefficients) *torch.Tensor {
	return s.Div(s.Subtract(s.Mul(k.row(s, sqrtRecip), x), x0), k.row(s, sqrtRecipM1))
}

// DDPM draws x_{t-1} from the learned reverse step (ancestral sampling, p_sample of the original).
type DDPM struct {
	solver
	noisy *torch.Tensor // [1, T], 0 at t = 0, where the original adds no noise, else 1
}

// NewDDPM has its tables in s.
func NewDDPM(s *torch.Scope, d *schedule.Schedule) *DDPM {
	noisy := make([]float64, d.Len())
	for t := range noisy {
		noisy[t] = min(float64(t), 1)
	}
	return &DDPM{newSolver(s, d), table(s, noisy)}
}

// Random reports true.
func (v *DDPM) Random() bool { return true }

// Step is [diffusion.Solver]'s.
func (v *DDPM) Step(s *torch.Scope, model diffusion.Denoiser, x diffusion.State, noise, k *torch.Tensor,
) diffusion.State {
	t := v.at(s, k)
	p, _ := v.predict(s, model, x.X(), t)
	deviation := s.Mul(lookUp(s, v.noisy, t).row(s, 0), s.Exp(s.MulScalar(p.logVar, 0.5)))
	return diffusion.State{s.Add(p.mean, s.Mul(deviation, noise))}
}

// The coefficients of a step of DDIM.
const (
	ddimX0 = iota
	ddimEps
)

// DDIM is the solver of Song et al. 2021 without noise, with the roundings of the original. The learned variance is not
// used. Package solver has it too, from coefficients in float64, also with noise and back from data to noise.
type DDIM struct {
	solver
	table *torch.Tensor // [2, T]
}

// NewDDIM has its tables in s. Its numbers are computed in float32, as in the original.
func NewDDIM(s *torch.Scope, d *schedule.Schedule) *DDIM {
	var rows [2][]float64
	for _, abar := range d.AlphasCumprodPrev {
		rows[ddimX0] = append(rows[ddimX0], sqrt32(float32(abar)))
		rows[ddimEps] = append(rows[ddimEps], sqrt32(1-float32(abar)))
	}
	return &DDIM{newSolver(s, d), table(s, rows[:]...)}
}

// sqrt32 is a root that is rounded to float32.
func sqrt32(x float32) float64 { return float64(float32(math.Sqrt(float64(x)))) }

// Random reports false.
func (v *DDIM) Random() bool { return false }

// Step is [diffusion.Solver]'s.
func (v *DDIM) Step(s *torch.Scope, model diffusion.Denoiser, x diffusion.State, _, k *torch.Tensor) diffusion.State {
	t := v.at(s, k)
	c := lookUp(s, v.table, t)
	p, of := v.predict(s, model, x.X(), t)
	return diffusion.State{s.Add(s.Mul(p.x0, c.row(s, ddimX0)),
		s.Mul(impliedNoise(s, x.X(), p.x0, of), c.row(s, ddimEps)))}
}
