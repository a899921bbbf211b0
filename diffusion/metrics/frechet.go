package metrics

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"
)

// A Gaussian is what a Frechet distance knows of a set: the mean [D] of its features and a factor F [R, D] of their
// covariance F^T F, which is divided by N - 1.
type Gaussian struct {
	N, D int // N is 0 where a file of statistics does not say it
	Mean []float64

	rank   int
	factor []float64
	trace  float64 // of the covariance
}

// Rank is that of the covariance as far as numbers tell, at most the smaller of D and N - 1.
func (g *Gaussian) Rank() int { return g.rank }

// Fit returns the Gaussian of features. That of at most D pictures is made of their features themselves: it has no
// directions in which rounding stands for a variance of zero.
func Fit(alg Algebra, f Features) (*Gaussian, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	if f.N < 2 {
		return nil, errors.New("the covariance of one picture: want at least 2")
	}
	if f.N > f.D {
		m := NewMoments(alg, f.D)
		const rows = 1024
		for lo := 0; lo < f.N; lo += rows {
			hi := min(lo+rows, f.N)
			if err := m.Add(Features{hi - lo, f.D, f.Data[lo*f.D : hi*f.D]}); err != nil {
				return nil, err
			}
		}
		return m.Gaussian()
	}
	g := &Gaussian{N: f.N, D: f.D, Mean: make([]float64, f.D), rank: f.N, factor: f.wide(0, f.N)}
	for i := range f.N {
		for j, v := range f.Row(i) {
			g.Mean[j] += float64(v) / float64(f.N)
		}
	}
	scale := 1 / math.Sqrt(float64(f.N-1))
	for i := range g.factor {
		g.factor[i] = (g.factor[i] - g.Mean[i%f.D]) * scale
		g.trace += g.factor[i] * g.factor[i]
	}
	return g, nil
}

// Moments sums features as they come, in float64.
type Moments struct {
	alg   Algebra
	n, d  int
	shift []float64 // the mean of the first features: sums of what is far from zero would lose digits
	sum   []float64
	outer []float64 // [D, D]
}

// NewMoments starts with no features, of which a picture will have d.
func NewMoments(alg Algebra, d int) *Moments {
	return &Moments{alg: alg, d: d, sum: make([]float64, d), outer: make([]float64, d*d)}
}

// Add adds the features of more pictures.
func (m *Moments) Add(f Features) error {
	if err := f.Check(); err != nil {
		return err
	}
	if f.D != m.d {
		return fmt.Errorf("%d features of a picture, want %d", f.D, m.d)
	}
	if m.shift == nil {
		m.shift = make([]float64, m.d)
		for i := range f.N {
			for j, v := range f.Row(i) {
				m.shift[j] += float64(v) / float64(f.N)
			}
		}
	}
	columns := make([]float64, f.N*f.D) // [D, N]
	for i := range f.N {
		for j, v := range f.Row(i) {
			x := float64(v) - m.shift[j]
			columns[j*f.N+i] = x
			m.sum[j] += x
		}
	}
	part, err := m.alg.Product(columns, columns, m.d, m.d, f.N)
	if err != nil {
		return err
	}
	for i, v := range part {
		m.outer[i] += v
	}
	m.n += f.N
	return nil
}

// Statistics returns mean [D] and covariance [D, D] of what was added.
func (m *Moments) Statistics() (mean, cov []float64, err error) {
	if m.n < 2 {
		return nil, nil, fmt.Errorf("the covariance of %d pictures: want at least 2", m.n)
	}
	mean, cov = make([]float64, m.d), make([]float64, m.d*m.d)
	n := float64(m.n)
	for i := range mean {
		mean[i] = m.shift[i] + m.sum[i]/n
		for j := range mean {
			cov[i*m.d+j] = (m.outer[i*m.d+j] - m.sum[i]/n*m.sum[j]) / (n - 1)
		}
	}
	return mean, cov, nil
}

// Gaussian returns that of what was added.
func (m *Moments) Gaussian() (*Gaussian, error) {
	mean, cov, err := m.Statistics()
	if err != nil {
		return nil, err
	}
	g, err := FromStatistics(mean, cov)
	if err == nil {
		g.N = m.n
	}
	return g, err
}

// FromStatistics returns the Gaussian of a mean [D] and a covariance [D, D], which may be singular. A matrix that is no
// covariance is an error.
func FromStatistics(mean, cov []float64) (*Gaussian, error) {
	d := len(mean)
	if d == 0 || len(cov) != d*d {
		return nil, fmt.Errorf("a mean of %d numbers and a covariance of %d: want %d", d, len(cov), d*d)
	}
	if !finite(mean) || !finite(cov) {
		return nil, errors.New("mean or covariance: want finite numbers")
	}
	g := &Gaussian{D: d, Mean: mean}
	top := 0.0
	for i := range d {
		g.trace += cov[i*d+i]
		top = max(top, math.Abs(cov[i*d+i]))
	}
	// Statistics are stored in float32 too, whose rounding is no error.
	const rounding = 1e-4
	for i := range d {
		for j := range i {
			if math.Abs(cov[i*d+j]-cov[j*d+i]) > rounding*top {
				return nil, fmt.Errorf("the covariance is not symmetric: elements (%d, %d) and (%d, %d) are %g and %g",
					i, j, j, i, cov[i*d+j], cov[j*d+i])
			}
		}
	}
	g.rank, g.factor = factorize(cov, d)
	if e := residual(cov, g.factor, d, g.rank); e > rounding*top {
		return nil, fmt.Errorf("the matrix is no covariance: it has negative eigenvalues, near %.2g", -e)
	}
	return g, nil
}

// factorize returns F [rank, D] with F^T F = cov, by Cholesky's factorization with pivots, which ends where nothing but
// rounding is left.
func factorize(cov []float64, d int) (rank int, factor []float64) {
	a := make([]float64, d*d)
	copy(a, cov)
	pivots := make([]int, d)
	u, rank, _ := lapack64.Pstrf(blas64.Symmetric{Uplo: blas.Upper, N: d, Stride: d, Data: a}, pivots, -1,
		make([]float64, 2*d))
	factor = make([]float64, rank*d)
	for i := range rank {
		for j := i; j < d; j++ {
			factor[i*d+pivots[j]] = u.Data[i*d+j]
		}
	}
	return rank, factor
}

// residual is the largest element of (cov - F^T F) v over the length of v, for a v of random signs.
func residual(cov, factor []float64, d, rank int) float64 {
	rng := rand.New(rand.NewPCG(1, 2))
	v := make([]float64, d)
	for i := range v {
		v[i] = float64(1 - 2*rng.IntN(2))
	}
	matrix := func(data []float64, rows int) blas64.General {
		return blas64.General{Rows: rows, Cols: d, Stride: d, Data: data}
	}
	vector := func(data []float64) blas64.Vector { return blas64.Vector{N: len(data), Inc: 1, Data: data} }
	out := make([]float64, d)
	blas64.Gemv(blas.NoTrans, 1, matrix(cov, d), vector(v), 0, vector(out))
	if rank > 0 {
		image := make([]float64, rank)
		blas64.Gemv(blas.NoTrans, 1, matrix(factor, rank), vector(v), 0, vector(image))
		blas64.Gemv(blas.Trans, -1, matrix(factor, rank), vector(image), 1, vector(out))
	}
	most := 0.0
	for _, x := range out {
		most = max(most, math.Abs(x))
	}
	return most / math.Sqrt(float64(d))
}

// Frechet returns the distance of two Gaussians (Dowson and Landau 1982; Heusel et al., arXiv:1706.08500):
//
//	|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)
//
// With factors S1 = F1^T F1 and S2 = F2^T F2 the last trace is the sum of the singular values of F1 F2^T, since the
// eigenvalues of S1 S2 are those of (F1 F2^T)^T (F1 F2^T). It is real whatever the covariances, singular ones
// included, and loses none of the digits that the root of a product of rounded covariances loses.
func Frechet(alg Algebra, a, b *Gaussian) (float64, error) {
	if a.D != b.D {
		return 0, fmt.Errorf("features of %d and of %d numbers a picture", a.D, b.D)
	}
	distance := a.trace + b.trace
	for i := range a.Mean {
		distance += (a.Mean[i] - b.Mean[i]) * (a.Mean[i] - b.Mean[i])
	}
	if a.rank == 0 || b.rank == 0 {
		return distance, nil
	}
	cross, err := alg.Product(a.factor, b.factor, a.rank, b.rank, a.D)
	if err != nil {
		return 0, err
	}
	values, err := alg.SingularValues(cross, a.rank, b.rank)
	if err != nil {
		return 0, err
	}
	for _, v := range values {
		distance -= 2 * v
	}
	return distance, nil
}

// An Extrapolation is a line through distances of N pictures by 1/N.
type Extrapolation struct {
	// Infinity is the distance that as many pictures as one likes would have, and PerPicture what it is larger with N
	// pictures, times N.
	Infinity, PerPicture float64
	Counts               []int     // of pictures
	Distances            []float64 // with so many
}

// Infinity extrapolates the Frechet distance of f from the reference to infinitely many pictures, as Chong and Forsyth
// (arXiv:1911.07023): the bias of the distance is near proportional to 1/N, so it is a line through the distances of
// random parts of f, of points counts from least to all.
func Infinity(alg Algebra, f Features, reference *Gaussian, least, points int, seed uint64) (Extrapolation, error) {
	if points < 2 || least < 2 || least >= f.N {
		return Extrapolation{}, fmt.Errorf("extrapolate from %d counts between %d and %d pictures: want at least 2 "+
			"counts", points, least, f.N)
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	var e Extrapolation
	var sx, sy, sxx, sxy float64
	for i := range points {
		n := least + (f.N-least)*i/(points-1)
		part := Features{N: n, D: f.D}
		for _, row := range rng.Perm(f.N)[:n] {
			part.Data = append(part.Data, f.Row(row)...)
		}
		g, err := Fit(alg, part)
		if err != nil {
			return Extrapolation{}, err
		}
		d, err := Frechet(alg, g, reference)
		if err != nil {
			return Extrapolation{}, err
		}
		e.Counts, e.Distances = append(e.Counts, n), append(e.Distances, d)
		x := 1 / float64(n)
		sx, sy, sxx, sxy = sx+x, sy+d, sxx+x*x, sxy+x*d
	}
	n := float64(points)
	e.PerPicture = (n*sxy - sx*sy) / (n*sxx - sx*sx)
	e.Infinity = (sy - e.PerPicture*sx) / n
	return e, nil
}
