package metrics

import (
	"fmt"
	"math/rand/v2"
)

// Subsets of the kernel distance as its authors and torch-fidelity have them.
const (
	NumSubsets = 100
	SubsetSize = 1000
)

// KernelDistance returns KID (Binkowski et al., arXiv:1801.01401): the mean over random subsets of the unbiased square
// of the maximum mean discrepancy under the kernel (x.y / D + 1)^3, and how the subsets deviate from it. Subsets are of
// size pictures, or of all of the smaller set.
func KernelDistance(alg Algebra, a, b Features, subsets, size int, seed uint64) (mean, deviation float64, err error) {
	for _, f := range []Features{a, b} {
		if err := f.Check(); err != nil {
			return 0, 0, err
		}
	}
	subsets, size = Subsets(a, b, subsets, size)
	switch {
	case a.D != b.D:
		return 0, 0, fmt.Errorf("features of %d and of %d numbers a picture", a.D, b.D)
	case size < 2 || subsets < 1:
		return 0, 0, fmt.Errorf("%d subsets of %d pictures: want at least one, of at least 2", subsets, size)
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	var values []float64
	for range subsets {
		v, err := discrepancy(alg, a.pick(rng.Perm(a.N)[:size]), b.pick(rng.Perm(b.N)[:size]), size, a.D)
		if err != nil {
			return 0, 0, err
		}
		values = append(values, v)
	}
	mean, deviation = meanDeviation(values)
	return mean, deviation, nil
}

// Subsets returns how many subsets [KernelDistance] takes, and of how many pictures, where it is asked for so many: one
// where each would hold all pictures of both sets.
func Subsets(a, b Features, subsets, size int) (count, pictures int) {
	size = min(size, a.N, b.N)
	if size == a.N && size == b.N {
		subsets = min(subsets, 1)
	}
	return subsets, size
}

// discrepancy is that of two sets of n pictures [n, D].
func discrepancy(alg Algebra, x, y []float64, n, d int) (float64, error) {
	var sums [3]float64
	for i, pair := range [3][2][]float64{{x, x}, {y, y}, {x, y}} {
		products, err := alg.Product(pair[0], pair[1], n, n, d)
		if err != nil {
			return 0, err
		}
		for at, v := range products {
			if k := v/float64(d) + 1; i == 2 || at/n != at%n {
				sums[i] += k * k * k
			}
		}
	}
	m := float64(n)
	return (sums[0]+sums[1])/(m*(m-1)) - 2*sums[2]/(m*m), nil
}
