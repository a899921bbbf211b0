package metrics

import (
	"errors"
	"fmt"
	"math"
)

// SplitSize is how many pictures ADM's evaluations take for one inception score; the mean over them is printed.
const SplitSize = 5000

// A Score sums class probabilities for the inception score (Salimans et al., arXiv:1606.03498) as they come. Splits are
// in the order of the pictures, as ADM's: pictures sorted by class score lower than shuffled ones.
type Score struct {
	d, split int
	n        int       // pictures of the split so far
	sum      []float64 // of the probabilities of each class
	plogp    float64   // sum of p log p
	scores   []float64
}

// NewScore starts with no pictures, of d classes, in splits of so many pictures; the last may be smaller.
func NewScore(d, split int) *Score { return &Score{d: d, split: split, sum: make([]float64, d)} }

// Add adds the probabilities of more pictures.
func (s *Score) Add(probabilities Features) error {
	if err := probabilities.Check(); err != nil {
		return err
	}
	if probabilities.D != s.d {
		return fmt.Errorf("probabilities of %d classes, want %d", probabilities.D, s.d)
	}
	for i := range probabilities.N {
		for j, v := range probabilities.Row(i) {
			if v < 0 || v > 1.001 {
				return fmt.Errorf("probability %d of picture %d is %v: want 0 to 1", j, i, v)
			}
			if v > 0 {
				s.plogp += float64(v) * math.Log(float64(v))
			}
			s.sum[j] += float64(v)
		}
		if s.n++; s.n == s.split {
			s.finish()
		}
	}
	return nil
}

// finish ends a split: the mean over its pictures of sum p (log p - log q), for q the mean of p.
func (s *Score) finish() {
	if s.n == 0 {
		return
	}
	kl, n := s.plogp/float64(s.n), float64(s.n)
	for j, v := range s.sum {
		if v > 0 {
			kl -= v / n * math.Log(v/n)
		}
		s.sum[j] = 0
	}
	s.scores = append(s.scores, math.Exp(kl))
	s.n, s.plogp = 0, 0
}

// Score returns the mean of the scores of the splits, and how they deviate from it.
func (s *Score) Score() (mean, deviation float64, err error) {
	s.finish()
	if len(s.scores) == 0 {
		return 0, 0, errors.New("the score of no picture")
	}
	mean, deviation = meanDeviation(s.scores)
	return mean, deviation, nil
}

// meanDeviation returns the mean and the standard deviation, divided by N, of values.
func meanDeviation(values []float64) (mean, deviation float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	for _, v := range values {
		deviation += (v - mean) * (v - mean) / n
	}
	return mean, math.Sqrt(deviation)
}
