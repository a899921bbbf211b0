package optim

import "github.com/ditrun/ditrun/torch/nn"

// Parameters start at multiples of 64 bytes, as fresh allocations do, so that kernels see aligned data.
const align = 16

func padded(n, to int) int { return (n + to - 1) / to * to }

// A layout says where the parameters lie in the flat buffer of the weights. Positions and sizes are in
// elements.
type layout struct {
	offsets        []int // of each parameter
	trained, total int   // those that are not trained lie in [trained, total)
}

// newLayout puts the trained parameters in reverse order of declaration, which is about the order in
// which their gradients come.
func newLayout(params []nn.Param) *layout {
	l := &layout{offsets: make([]int, len(params))}
	place := func(trained bool) {
		for i := len(params) - 1; i >= 0; i-- {
			if p := params[i].Tensor; p.RequiresGrad() == trained {
				l.offsets[i] = l.total
				l.total += padded(p.NumElements(), align)
			}
		}
	}
	place(true)
	l.trained = l.total
	place(false)
	return l
}

// A piece is a part of a parameter that a process holds.
type piece struct {
	param          int
	offset, length int // in the parameter
	at             int // in the process's buffer
}

// moments lists the pieces of the trained parameters' moments in order of declaration.
func (l *layout) moments(params []nn.Param) (out []piece) {
	for _, p := range l.averages(params) {
		if l.offsets[p.param] < l.trained {
			out = append(out, p)
		}
	}
	return out
}

// averages lists the pieces of all averages in order of declaration.
func (l *layout) averages(params []nn.Param) (out []piece) {
	for i, p := range params {
		out = append(out, piece{i, 0, p.Tensor.NumElements(), l.offsets[i]})
	}
	return out
}
