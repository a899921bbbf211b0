// Package scaling says how models get better with arithmetic: it fits power laws y = a x^-b to points that were
// measured with noise, such as the losses of finished runs against the multiply-accumulates of their models, and says
// how sure the fit is. It also has the results of the DiT paper, [Paper].
//
// It needs no libtorch.
package scaling

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// A Point is one measurement: at X, the mean of Values. Values are independent of each other, as the losses in a log
// are; a single one is taken as exact. All are positive.
type Point struct {
	X      float64
	Values []float64
}

// Mean returns the mean of the values.
func (p Point) Mean() float64 {
	sum := 0.0
	for _, v := range p.Values {
		sum += v
	}
	return sum / float64(len(p.Values))
}

// Error returns the standard error of the mean, 0 for a single value.
func (p Point) Error() float64 {
	n := float64(len(p.Values))
	if n < 2 {
		return 0
	}
	mean, squares := p.Mean(), 0.0
	for _, v := range p.Values {
		squares += (v - mean) * (v - mean)
	}
	return math.Sqrt(squares / (n - 1) / n)
}

// An Interval holds the true value with a probability of 95 %, as far as the fit's assumptions hold.
type Interval struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// A Law is y = Factor x^-Exponent, fitted by least squares of the logarithms.
type Law struct {
	Factor, Exponent float64
	// Residuals are, for each point, the logarithm of the mean over that of the law.
	Residuals []float64
	// Scatter is the standard deviation of the true values about the law, in logarithms: what the residuals show beyond
	// the noise of the means. 0 where the noise explains them, or with two points, which any law fits.
	Scatter float64

	draws []draw // of the bootstrap
}

// A draw is the line that one resampling gives: log y = level - exponent (log x - center), and the scatter there.
type draw struct{ factor, exponent, scatter float64 }

const (
	numDraws  = 1000
	intervals = 0.95
)

// Fit returns the law that fits points best, and what it needs for intervals: the values of each point are resampled
// (bootstrap), and each draw moves every point by a random amount as well, where the means scatter about the law by
// more than that. How large this scatter is is known from few residuals alone, so each draw takes another size, as
// their distribution allows: three points far from a line make wide intervals. The draws follow from seed.
func Fit(points []Point, seed uint64) (*Law, error) {
	if err := check(points); err != nil {
		return nil, err
	}
	x, y := make([]float64, len(points)), make([]float64, len(points))
	noise := 0.0 // mean variance of log y by the noise of the values
	for i, p := range points {
		x[i], y[i] = math.Log(p.X), math.Log(p.Mean())
		e := p.Error() / p.Mean()
		noise += e * e / float64(len(points))
	}
	level, slope := line(x, y)
	law := &Law{Factor: math.Exp(level), Exponent: -slope}
	squares := 0.0
	for i := range x {
		r := y[i] - level - slope*x[i]
		law.Residuals = append(law.Residuals, r)
		squares += r * r
	}
	free, variance := len(points)-2, 0.0 // of the means about the law, noise included
	if free > 0 {
		variance = squares / float64(free)
		law.Scatter = math.Sqrt(max(0, variance-noise))
	}
	random := rand.New(rand.NewPCG(seed, 0))
	moved := make([]float64, len(y))
	for range numDraws {
		scatter := math.Sqrt(max(0, variance*inverse(random, free)-noise))
		for i, p := range points {
			moved[i] = y[i] + p.noise(random) + scatter*random.NormFloat64()
		}
		level, slope := line(x, moved)
		law.draws = append(law.draws, draw{level, -slope, scatter})
	}
	return law, nil
}

// noise returns how the logarithm of the mean moves if the values are drawn again, with replacement. The spread of n
// such values is too small by sqrt(n / (n-1)).
func (p Point) noise(random *rand.Rand) float64 {
	n := len(p.Values)
	if n < 2 {
		return 0
	}
	sum := 0.0
	for range n {
		sum += p.Values[random.IntN(n)]
	}
	mean := p.Mean()
	wider := math.Sqrt(float64(n) / float64(n-1))
	return max((sum/float64(n)/mean-1)*wider, math.Log(1e-3)) // nearly the logarithm's change, and never that of 0
}

// inverse returns free / chi^2: by how much the variance may be larger than the one that free residuals show.
func inverse(random *rand.Rand, free int) float64 {
	sum := 0.0
	for range free {
		z := random.NormFloat64()
		sum += z * z
	}
	if sum == 0 {
		return 1
	}
	return float64(free) / sum
}

func check(points []Point) error {
	if len(points) < 2 {
		return fmt.Errorf("a power law needs 2 points, not %d", len(points))
	}
	for _, p := range points {
		if len(p.Values) == 0 {
			return errors.New("a point without a value")
		}
		for _, v := range append([]float64{p.X}, p.Values...) {
			if !(v > 0) || math.IsInf(v, 0) {
				return fmt.Errorf("a power law needs positive numbers, not %g", v)
			}
		}
	}
	same := func(a, b Point) bool { return a.X == b.X }
	if len(slices.CompactFunc(slices.Clone(points), same)) < 2 {
		return fmt.Errorf("a power law needs points at two places, and all are at %g", points[0].X)
	}
	return nil
}

// line returns the line y = level + slope x of least squares.
func line(x, y []float64) (level, slope float64) {
	n := float64(len(x))
	mx, my := 0.0, 0.0
	for i := range x {
		mx += x[i] / n
		my += y[i] / n
	}
	xx, xy := 0.0, 0.0
	for i := range x {
		xx += (x[i] - mx) * (x[i] - mx)
		xy += (x[i] - mx) * (y[i] - my)
	}
	slope = xy / xx
	return my - slope*mx, slope
}

// At returns the law's value at x.
func (l *Law) At(x float64) float64 { return l.Factor * math.Pow(x, -l.Exponent) }

// ExponentInterval returns the exponent with its interval.
func (l *Law) ExponentInterval() Interval {
	low, high := l.quantiles(func(d draw) float64 { return d.exponent })
	return Interval{l.Exponent, low, high}
}

// Mean returns the law's value at x, with the interval of the law: what many models of that size have on average.
func (l *Law) Mean(x float64) Interval {
	low, high := l.quantiles(func(d draw) float64 { return math.Exp(d.factor - d.exponent*math.Log(x)) })
	return Interval{l.At(x), low, high}
}

// Predict returns the law's value at x, with the interval of one more measurement there: the law's own, and the
// scatter of the points about it.
func (l *Law) Predict(x float64) Interval {
	random := rand.New(rand.NewPCG(1, 1))
	low, high := l.quantiles(func(d draw) float64 {
		return math.Exp(d.factor - d.exponent*math.Log(x) + d.scatter*random.NormFloat64())
	})
	return Interval{l.At(x), low, high}
}

func (l *Law) quantiles(of func(draw) float64) (low, high float64) {
	values := make([]float64, len(l.draws))
	for i, d := range l.draws {
		values[i] = of(d)
	}
	slices.Sort(values)
	tail := (1 - intervals) / 2
	at := func(q float64) float64 { return values[int(math.Round(q*float64(len(values)-1)))] }
	return at(tail), at(1 - tail)
}

// A Curve is how the loss of one run fell: Losses[i] is the mean of the log step that ended with Images[i] pictures.
type Curve struct {
	MACs   float64 // multiply-accumulates of a forward pass of one picture
	Images []float64
	Losses []float64
}

// passes is what training takes of a picture, in forward passes: one, and about two for the gradients.
const passes = 3

// Compute returns the multiply-accumulates of training on so many pictures.
func (c *Curve) Compute(images float64) float64 { return passes * c.MACs * images }

// share is the last part of a run whose losses count: those of its last steps alone are noise.
const share = 0.1

// At returns the losses of the last tenth of the pictures up to a number of them, at least one; none for a run that
// ended before, or began after.
func (c *Curve) At(images float64) []float64 {
	end := 0
	for end < len(c.Images) && c.Images[end] <= images*(1+1e-9) {
		end++
	}
	if end == 0 || c.Images[len(c.Images)-1] < images*(1-1e-9) {
		return nil
	}
	begin := end - 1
	for begin > 0 && c.Images[begin-1] > images*(1-share) {
		begin--
	}
	return c.Losses[begin:end]
}

// AtEqualImages returns a point for each run, at its MACs, and the number of pictures at which they are compared: that
// of the shortest run.
func AtEqualImages(curves []Curve) (points []Point, images float64) {
	images = math.Inf(1)
	for _, c := range curves {
		images = min(images, c.Images[len(c.Images)-1])
	}
	for _, c := range curves {
		points = append(points, Point{c.MACs, c.At(images)})
	}
	return points, images
}

// A Best is the run that is best for a budget.
type Best struct {
	Compute float64 // multiply-accumulates of training
	Run     int     // its index
	Point           // at Compute
}

// numBudgets is how many budgets the frontier is looked at.
const numBudgets = 24

// Frontier returns, for budgets of arithmetic evenly spread over those at which two or more runs can be compared, the
// run with the lowest loss: which size of model uses so much arithmetic best. It is empty where no two can be compared.
func Frontier(curves []Curve) (best []Best) {
	var starts, ends []float64
	for _, c := range curves {
		starts = append(starts, c.Compute(c.Images[0]))
		ends = append(ends, c.Compute(c.Images[len(c.Images)-1]))
	}
	if len(curves) < 2 {
		return nil
	}
	slices.Sort(starts)
	slices.Sort(ends)
	low, high := starts[1], ends[len(ends)-2] // where the second one begins, and the last but one ends
	if !(low < high) {
		return nil
	}
	for i := range numBudgets {
		compute := low * math.Pow(high/low, float64(i)/(numBudgets-1))
		found := Best{Compute: compute, Run: -1}
		compared := 0
		for k, c := range curves {
			values := c.At(compute / passes / c.MACs)
			if len(values) == 0 {
				continue
			}
			compared++
			if p := (Point{compute, values}); found.Run < 0 || cmp.Less(p.Mean(), found.Mean()) {
				found.Run, found.Point = k, p
			}
		}
		if compared > 1 {
			best = append(best, found)
		}
	}
	return best
}
