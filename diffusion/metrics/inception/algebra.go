package inception

import "github.com/ditrun/ditrun/torch"

// An Algebra computes what metrics leave to it with libtorch, in Float64: products on Device, singular values on the
// CPU.
type Algebra struct{ Device torch.Device }

// Product returns a b^T [n, m] for a [n, d] and b [m, d].
func (g Algebra) Product(a, b []float64, n, m, d int) (out []float64, err error) {
	err = torch.Run(g.Device, func(s *torch.Scope) error {
		s = s.NoGrad()
		out = torch.Data[float64](s.MatMul(torch.From(s, a, n, d), s.Transpose(torch.From(s, b, m, d), 0, 1)))
		return nil
	})
	return out, err
}

// SingularValues returns those of a [n, m], falling.
func (g Algebra) SingularValues(a []float64, n, m int) (out []float64, err error) {
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		out = torch.Data[float64](s.NoGrad().SingularValues(torch.From(s, a, n, m)))
		return nil
	})
	return out, err
}
