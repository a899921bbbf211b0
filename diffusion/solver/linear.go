package solver

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/diffusion/schedule"
	"github.com/ditrun/ditrun/torch"
)

// What the next samples are linear in. m_0 is what the solver makes of the network's output, m_1 to m_3 those of the
// calls before. The base is a second sample that some solvers keep.
const (
	ofX = iota
	ofBase
	ofOutput
	ofM0
	ofM1
	ofM2
	ofM3
	ofNoise
	numTerms
)

// A sum is a linear combination of these.
type sum [numTerms]float64

// plus returns r + f q.
func (r sum) plus(f float64, q sum) sum {
	for i := range r {
		if q[i] != 0 { // f may be infinite where a term is not there
			r[i] += f * q[i]
		}
	}
	return r
}

// term returns f times one term.
func term(of int, f float64) (r sum) {
	r[of] = f
	return r
}

// of returns what a [schedule.Mix] says.
func of(m schedule.Mix) sum { return sum{ofX: m.X, ofOutput: m.Output} }

// A call is one call of the network and what follows from it.
type call struct {
	t     float64      // the time that the network is told
	start float64      // the time at which the step of the solver begins that the call belongs to
	draws bool         // noise is drawn, though some forms of diffusion let none of it in
	churn float64      // so much noise is added to x before the call
	m0    schedule.Mix // m_0
	x     sum          // what x becomes
	base  sum          // what the base becomes
}

// Linear is a solver whose samples after a call of the network are a linear combination of what it had before: all of
// this package but dopri5. A step of it is one call. Its coefficients are in a table with a column for each step.
type Linear struct {
	calls []call
	told  *torch.Tensor // [K], Int64 for DiT's betas, else Float32
	table *torch.Tensor // Float64 [rows, K]
	row   map[entry]int // rows of the table; what is zero in all steps has none
}

// An entry is a term of a sum, or one of a call's other numbers.
type entry struct{ what, term int }

const (
	nextX = iota
	nextBase
	ofCall // its terms are ofX and ofOutput for m_0, ofNoise for the churn
)

func (c call) rows() [3]sum {
	return [3]sum{nextX: c.x, nextBase: c.base, ofCall: {ofX: c.m0.X, ofOutput: c.m0.Output, ofNoise: c.churn}}
}

// finiteCalls returns an error where a coefficient is infinite or no number.
func finiteCalls(calls []call) error {
	for k, c := range calls {
		for _, row := range c.rows() {
			for _, f := range row {
				if math.IsNaN(f) || math.IsInf(f, 0) {
					return fmt.Errorf("step %d of %d divides by zero at time %v: the prediction says nothing there",
						k+1, len(calls), c.t)
				}
			}
		}
	}
	return nil
}

// newLinear has its tables in s.
func newLinear(s *torch.Scope, calls []call, wholeTimes bool) *Linear {
	v := &Linear{calls: calls, row: map[entry]int{}}
	var flat []float64
	for what := range call.rows(call{}) {
		for term := range numTerms {
			used := false
			for _, c := range calls {
				used = used || c.rows()[what][term] != 0
			}
			if !used {
				continue
			}
			v.row[entry{what, term}] = len(v.row)
			for _, c := range calls {
				flat = append(flat, c.rows()[what][term])
			}
		}
	}
	v.table = torch.From(s, flat, len(v.row), len(calls))
	told := make([]float64, len(calls))
	for k, c := range calls {
		told[k] = c.t
	}
	v.told = s.To(torch.From(s, told, len(told)), torch.Float32)
	if wholeTimes {
		v.told = s.To(v.told, torch.Int64)
	}
	return v
}

// Steps returns the number of calls of the network.
func (v *Linear) Steps() int { return len(v.calls) }

// Random says whether any step adds noise.
func (v *Linear) Random() bool {
	for k := range v.calls {
		if v.Draws(k) {
			return true
		}
	}
	return false
}

// Draws says whether noise is drawn for step k. In the steps that need none the originals draw none, so whoever draws
// from one generator, as they do, has to know.
func (v *Linear) Draws(k int) bool { return v.calls[k].draws }

// Starts returns for each step, which is one call, the time at which the whole step of the method begins: REPA looks
// there whether a call is guided.
func (v *Linear) Starts() []float64 {
	out := make([]float64, len(v.calls))
	for k, c := range v.calls {
		out[k] = c.start
	}
	return out
}

// memory returns how many of m_1 to m_3 are kept.
func (v *Linear) memory() int {
	for n := 3; n > 0; n-- {
		for _, what := range []int{nextX, nextBase} {
			if _, ok := v.row[entry{what, ofM0 + n}]; ok {
				return n
			}
		}
	}
	return 0
}

// keepsBase says whether there is a base.
func (v *Linear) keepsBase() bool {
	_, x := v.row[entry{nextX, ofBase}]
	_, base := v.row[entry{nextBase, ofBase}]
	return x || base
}

// Start returns the state of samples that begin at noise: x, the base where there is one, and the memory. Samples in
// Float64 are kept so, as REPA keeps them; the network gets them in Float32.
func (v *Linear) Start(s *torch.Scope, noise *torch.Tensor) diffusion.State {
	state := diffusion.State{noise}
	if v.keepsBase() {
		state = append(state, s.Clone(noise))
	}
	for range v.memory() {
		state = append(state, s.Zeros(noise.DType(), noise.Shape()...))
	}
	return state
}

// Step is [diffusion.Solver]'s: one call of the network.
func (v *Linear) Step(s *torch.Scope, model diffusion.Denoiser, state diffusion.State, noise, k *torch.Tensor,
) diffusion.State {
	x := state.X()
	shape := append([]int{len(v.row)}, column(x)...)
	table := s.Reshape(s.To(s.IndexSelect(v.table, 1, k), x.DType()), shape...)
	if v.Random() {
		noise = s.To(noise, x.DType())
	}
	terms := [numTerms]*torch.Tensor{ofX: x, ofNoise: noise}
	kept := state[1:]
	if v.keepsBase() {
		terms[ofBase], kept = kept[0], kept[1:]
	}
	copy(terms[ofM1:], kept)
	// add returns start, which may be nil, plus the sum of these terms.
	add := func(start *torch.Tensor, what int, of ...int) *torch.Tensor {
		for _, term := range of {
			i, ok := v.row[entry{what, term}]
			switch {
			case !ok:
			case start == nil:
				start = s.Mul(s.Select(table, 0, i), terms[term])
			default:
				start = s.Addcmul(start, s.Select(table, 0, i), terms[term])
			}
		}
		return start
	}
	terms[ofX] = add(x, ofCall, ofNoise)
	output := model(s, s.To(terms[ofX], torch.Float32), s.IndexSelect(v.told, 0, k))
	if c := x.Dim(1); output.Dim(1) > c { // the rest is a variance
		output = s.Narrow(output, 1, 0, c)
	}
	terms[ofOutput] = s.To(output, x.DType())
	terms[ofM0] = add(nil, ofCall, ofX, ofOutput)

	all := []int{ofX, ofBase, ofOutput, ofM0, ofM1, ofM2, ofM3, ofNoise}
	next := diffusion.State{add(nil, nextX, all...)}
	if v.keepsBase() {
		next = append(next, add(nil, nextBase, all...))
	}
	for i := range v.memory() {
		m := terms[ofM0+i]
		if i > 0 {
			m = s.Clone(m) // the state before is freed
		}
		next = append(next, m)
	}
	return next
}
