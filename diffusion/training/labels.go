package training

import (
	"math"

	"github.com/ditrun/ditrun/torch"
)

// A labelCheck finds out whether labels belong to the latents they came with: those of other pictures, as after a
// list was sorted and the other was not, make a run that looks healthy and a model that does not obey. It compares
// how far the classes' means of latents lie from each other with how far they would by chance (an analysis of
// variance).
type labelCheck struct {
	sums    *torch.Tensor // [K, F]: by class, of the features of its latents
	squares *torch.Tensor // [F]
	counts  *torch.Tensor // [K]: how many samples had each
}

// leastSamples is what a judgement needs.
const leastSamples = 500

func (l *labelCheck) close() {
	if l.sums != nil {
		l.sums.Close()
		l.squares.Close()
		l.counts.Close()
		l.sums = nil
	}
}

// observe counts latents x0 [N, C, h, w] with their labels (Int64 [N]), of K classes. The features are means over rows,
// C h of them.
func (l *labelCheck) observe(s *torch.Scope, x0, labels *torch.Tensor, classes int) {
	s = s.NoGrad()
	x := s.Reshape(s.MeanDims(x0, false, 3), x0.Dim(0), -1) // [N, F]
	if l.sums == nil {
		l.sums = torch.Persist(s.Zeros(torch.Float32, classes, x.Dim(1)))
		l.squares = torch.Persist(s.Zeros(torch.Float32, x.Dim(1)))
		l.counts = torch.Persist(s.Zeros(torch.Float32, classes))
	}
	members := oneHot(s, labels, classes)
	s.Copy_(l.sums, s.Add(l.sums, s.MatMul(members, x)))
	s.Copy_(l.squares, s.Add(l.squares, s.SumDims(s.Square(x), false, 0)))
	s.Copy_(l.counts, s.Add(l.counts, s.SumDims(members, false, 1)))
}

// chance says whether the labels tell no more of the latents than labels drawn at random would: whether the
// variance between classes over that within them is less than two standard deviations above 1. samples is how many
// it judges by, 0 where they are too few.
func (l *labelCheck) chance() (samples int, ratio float64, chance bool) {
	if l.sums == nil {
		return 0, 0, false
	}
	sums, squares, counts := torch.Data[float32](l.sums), torch.Data[float32](l.squares), torch.Data[float32](l.counts)
	features := len(squares)
	var n, k float64
	for _, c := range counts {
		if n += float64(c); c > 0 {
			k++
		}
	}
	if n < leastSamples || k < 2 || n < 4*k {
		return 0, 0, false
	}
	var between, within float64
	for f, square := range squares {
		var sum, byClass float64
		for c, count := range counts {
			if count > 0 {
				v := float64(sums[c*features+f])
				sum, byClass = sum+v, byClass+v*v/float64(count)
			}
		}
		between, within = between+byClass-sum*sum/n, within+float64(square)-byClass
	}
	ratio = (between / (k - 1)) / (within / (n - k))
	return int(n), ratio, ratio < 1+2*math.Sqrt(2/(k-1)+2/(n-k))
}
