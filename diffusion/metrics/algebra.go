package metrics

import (
	"errors"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/mat"
)

// An Algebra computes what takes time, in float64. Matrices are row by row.
type Algebra interface {
	// Product returns a b^T [n, m] for a [n, d] and b [m, d].
	Product(a, b []float64, n, m, d int) ([]float64, error)
	// SingularValues returns those of a [n, m], falling.
	SingularValues(a []float64, n, m int) ([]float64, error)
}

// Go is an Algebra in Go.
type Go struct{}

// Product is that of [Algebra].
func (Go) Product(a, b []float64, n, m, d int) ([]float64, error) {
	out := make([]float64, n*m)
	blas64.Gemm(blas.NoTrans, blas.Trans, 1, blas64.General{Rows: n, Cols: d, Stride: d, Data: a},
		blas64.General{Rows: m, Cols: d, Stride: d, Data: b}, 0,
		blas64.General{Rows: n, Cols: m, Stride: m, Data: out})
	return out, nil
}

// SingularValues is that of [Algebra].
func (Go) SingularValues(a []float64, n, m int) ([]float64, error) {
	var svd mat.SVD
	if !svd.Factorize(mat.NewDense(n, m, a), mat.SVDNone) {
		return nil, errors.New("the singular values do not converge")
	}
	return svd.Values(nil), nil
}
