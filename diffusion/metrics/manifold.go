package metrics

import (
	"fmt"
	"slices"
)

// Neighbour is which nearest neighbour gives the radius of precision and recall in ADM's evaluations.
const Neighbour = 3

// PrecisionRecall returns improved precision and recall (Kynkaanniemi et al., arXiv:1904.06991). Precision is the share
// of samples that are in a ball around a reference picture, recall the share of reference pictures in one around a
// sample; the radius of a ball is the distance to the kth nearest other picture of the own set. OnProgress, which may
// be nil, is told what share is done.
func PrecisionRecall(alg Algebra, samples, reference Features, k int, onProgress func(share float64)) (precision,
	recall float64, err error) {
	for _, f := range []Features{samples, reference} {
		if err := f.Check(); err != nil {
			return 0, 0, err
		}
		if f.N <= k || k < 1 {
			return 0, 0, fmt.Errorf("the %d nearest neighbours of %d pictures: want at least %d", k, f.N, k+1)
		}
	}
	if samples.D != reference.D {
		return 0, 0, fmt.Errorf("features of %d and of %d numbers a picture", samples.D, reference.D)
	}
	n, m := float64(samples.N), float64(reference.N)
	all, done := n*n+m*m+n*m, 0.0
	advance := func(pairs int) {
		if done += float64(pairs); onProgress != nil {
			onProgress(done / all)
		}
	}
	radiiS, err := radii(alg, samples, k, advance)
	if err != nil {
		return 0, 0, err
	}
	radiiR, err := radii(alg, reference, k, advance)
	if err != nil {
		return 0, 0, err
	}
	inR, inS := make([]bool, samples.N), make([]bool, reference.N)
	err = distances(alg, samples, reference, func(i, first int, row []float64) {
		for j, d := range row {
			inR[i] = inR[i] || d <= radiiR[first+j]
			inS[first+j] = inS[first+j] || d <= radiiS[i]
		}
	}, advance)
	return share(inR), share(inS), err
}

func share(in []bool) float64 {
	n := 0
	for _, v := range in {
		if v {
			n++
		}
	}
	return float64(n) / float64(len(in))
}

// radii returns the squared distance of each picture of f to the kth nearest other one.
func radii(alg Algebra, f Features, k int, advance func(int)) ([]float64, error) {
	nearest := make([][]float64, f.N) // the k+1 smallest distances so far, itself among them, rising
	err := distances(alg, f, f, func(i, _ int, row []float64) {
		list := nearest[i]
		for _, d := range row {
			if len(list) == k+1 && d >= list[k] {
				continue
			}
			at, _ := slices.BinarySearch(list, d)
			if list = slices.Insert(list, at, d); len(list) > k+1 {
				list = list[:k+1]
			}
		}
		nearest[i] = list
	}, advance)
	out := make([]float64, f.N)
	for i, list := range nearest {
		if err == nil {
			out[i] = list[k]
		}
	}
	return out, err
}

// distances calls found with the squared distances of picture i of a to those of b from number first on, for all
// pictures and parts of b.
func distances(alg Algebra, a, b Features, found func(i, first int, row []float64), advance func(pairs int)) error {
	const rows = 2048 // of both: 32 MiB of products
	for lo := 0; lo < a.N; lo += rows {
		hi := min(lo+rows, a.N)
		x := a.wide(lo, hi)
		xx := squares(x, a.D)
		for first := 0; first < b.N; first += rows {
			last := min(first+rows, b.N)
			y := b.wide(first, last)
			yy := squares(y, b.D)
			width := last - first
			product, err := alg.Product(x, y, hi-lo, width, a.D)
			if err != nil {
				return err
			}
			for i := range hi - lo {
				row := product[i*width : (i+1)*width]
				for j := range row {
					row[j] = max(0, xx[i]-2*row[j]+yy[j])
				}
				found(lo+i, first, row)
			}
			advance((hi - lo) * width)
		}
	}
	return nil
}

// squares returns the squared length of each row of d numbers.
func squares(rows []float64, d int) []float64 {
	out := make([]float64, len(rows)/d)
	for i, v := range rows {
		out[i/d] += v * v
	}
	return out
}
