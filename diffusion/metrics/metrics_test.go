package metrics

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch/philox"
)

// uniforms are those of bench/parity/philox_weights.py, in [-1/2, 1/2).
func uniforms(index uint64, n int) []float32 {
	out := make([]float32, 0, n+3)
	for block := uint32(0); len(out) < n; block++ {
		for _, w := range philox.Block(0, block, philox.TagWeights, 0, index) {
			out = append(out, float32(w>>8)*0x1p-24-0.5)
		}
	}
	return out[:n]
}

// drawn are the features of set k of bench/parity/gen_goldens_metrics.py.
func drawn(k, n, d int) Features {
	u, v := uniforms(uint64(k), n*d), uniforms(uint64(k+100), n*d/4)
	f := Features{n, d, make([]float32, n*d)}
	for i := range f.Data {
		x := u[i] + v[i/4]
		f.Data[i] = float32(math.Abs(float64(x))) + float32(k)/16
	}
	return f
}

// repeated makes the second half of each row equal to the first.
func repeated(f Features) Features {
	for i := range f.N {
		row := f.Row(i)
		copy(row[f.D/2:], row[:f.D/2])
	}
	return f
}

type golden struct {
	Name                               string
	N                                  [2]int
	D                                  int
	Singular                           bool
	FID, Exact, Precision, Recall, KID float64
	IS                                 float64
}

func goldens(t *testing.T) (list []golden) {
	t.Helper()
	text, err := os.ReadFile("testdata/metrics.json")
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil || len(list) < 4 {
		t.Fatalf("%d goldens, %v", len(list), err)
	}
	return list
}

func near(t *testing.T, what string, got, want, limit float64) {
	t.Helper()
	if e := math.Abs(got-want) / math.Abs(want); !(e < limit) {
		t.Errorf("%s: %v, want %v: relative error %.2g", what, got, want, e)
	}
}

func mustFit(t *testing.T, f Features) *Gaussian {
	t.Helper()
	g, err := Fit(Go{}, f)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func frechet(t *testing.T, a, b *Gaussian) float64 {
	t.Helper()
	d, err := Frechet(Go{}, a, b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The golden of exact is NumPy's from the features themselves; fid is what pytorch-fid makes of it with scipy's root of
// the product, which loses digits where a covariance is singular.
func TestNumbersEqualTheOriginals(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.Name, func(t *testing.T) {
			a, b := drawn(1, g.N[0], g.D), drawn(2, g.N[1], g.D)
			if g.Singular {
				a, b = repeated(a), repeated(b)
			}
			fid := frechet(t, mustFit(t, a), mustFit(t, b))
			near(t, "FID, exact", fid, g.Exact, 1e-7)
			near(t, "FID of pytorch-fid", fid, g.FID, 1e-6)
			near(t, "FID the other way", frechet(t, mustFit(t, b), mustFit(t, a)), fid, 1e-9)

			precision, recall, err := PrecisionRecall(Go{}, a, b, Neighbour, nil)
			if err != nil || precision != g.Precision || recall != g.Recall {
				t.Errorf("precision %v and recall %v, %v: want %v and %v", precision, recall, err, g.Precision,
					g.Recall)
			}
			n := min(a.N, b.N)
			kid, deviation, err := KernelDistance(Go{}, a.First(n), b.First(n), NumSubsets, SubsetSize, 0)
			if err != nil || deviation != 0 {
				t.Errorf("deviation %v of one subset, %v", deviation, err)
			}
			near(t, "KID", kid, g.KID, 1e-9)

			s := NewScore(a.D, 100)
			for i := range a.N {
				row, sum := a.Row(i), 0.0
				for _, v := range row {
					sum += float64(v)
				}
				for j := range row {
					row[j] = float32(float64(row[j]) / sum)
				}
			}
			for _, part := range []Features{a.First(7), {a.N - 7, a.D, a.Data[7*a.D:]}} { // of any size
				if err := s.Add(part); err != nil {
					t.Fatal(err)
				}
			}
			is, _, err := s.Score()
			if err != nil {
				t.Fatal(err)
			}
			near(t, "IS", is, g.IS, 1e-6)
		})
	}
}

func TestFrechetOfLines(t *testing.T) { // in one dimension: (m1 - m2)^2 + (s1 - s2)^2
	a, err := FromStatistics([]float64{1}, []float64{4})
	if err != nil {
		t.Fatal(err)
	}
	b, err := FromStatistics([]float64{4}, []float64{25})
	if err != nil {
		t.Fatal(err)
	}
	near(t, "distance", frechet(t, a, b), 9+9, 1e-14)
	if d := frechet(t, a, a); math.Abs(d) > 1e-14 {
		t.Errorf("distance %v of a set from itself", d)
	}
	none, err := FromStatistics([]float64{1}, []float64{0})
	if err != nil || none.Rank() != 0 {
		t.Fatalf("rank %v, %v", none.Rank(), err)
	}
	near(t, "distance from a point", frechet(t, none, b), 9+25, 1e-14)
}

// The features of few pictures give the same distance as their covariance, and more digits.
func TestFewPicturesAreExact(t *testing.T) {
	a, b := drawn(1, 40, 64), drawn(2, 30, 64)
	moments := func(f Features) *Gaussian {
		m := NewMoments(Go{}, f.D)
		if err := m.Add(f.First(11)); err != nil {
			t.Fatal(err)
		}
		if err := m.Add(Features{f.N - 11, f.D, f.Data[11*f.D:]}); err != nil {
			t.Fatal(err)
		}
		g, err := m.Gaussian()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	near(t, "by covariance", frechet(t, moments(a), moments(b)), frechet(t, mustFit(t, a), mustFit(t, b)), 1e-6)
	if r := moments(a).Rank(); r != 39 {
		t.Errorf("rank %d of the covariance of 40 pictures", r)
	}
	if d := frechet(t, mustFit(t, a), mustFit(t, a)); math.Abs(d) > 1e-12 {
		t.Errorf("distance %g of few pictures from themselves", d)
	}
}

// Sums of what is far from zero keep their digits.
func TestMomentsFarFromZero(t *testing.T) {
	f := drawn(3, 500, 8)
	far := Features{f.N, f.D, slices.Clone(f.Data)}
	for i := range far.Data {
		far.Data[i] = (far.Data[i] + 4096) // exact to 2^-12
		f.Data[i] = far.Data[i] - 4096
	}
	cov := func(f Features) []float64 {
		m := NewMoments(Go{}, f.D)
		for lo := 0; lo < f.N; lo += 100 {
			if err := m.Add(Features{100, f.D, f.Data[lo*f.D : (lo+100)*f.D]}); err != nil {
				t.Fatal(err)
			}
		}
		_, cov, err := m.Statistics()
		if err != nil {
			t.Fatal(err)
		}
		return cov
	}
	a, b := cov(f), cov(far)
	for i := range a {
		if math.Abs(a[i]-b[i]) > 1e-13 {
			t.Fatalf("element %d: %v and %v", i, a[i], b[i])
		}
	}
}

func TestInfinity(t *testing.T) {
	f, reference := drawn(1, 3000, 16), mustFit(t, drawn(2, 3000, 16))
	e, err := Infinity(Go{}, f, reference, 100, 15, 0)
	if err != nil {
		t.Fatal(err)
	}
	whole := frechet(t, mustFit(t, f), reference)
	if e.Counts[0] != 100 || e.Counts[14] != 3000 || e.Distances[14]-whole > 1e-9 {
		t.Errorf("%v: %v, want up to %v", e.Counts, e.Distances, whole)
	}
	if !(e.Infinity < whole) || !(e.PerPicture > 0) || !(e.Infinity > 0.9*whole) {
		t.Errorf("%+v of %v", e, whole)
	}
	if _, err := Infinity(Go{}, f, reference, 3000, 15, 0); err == nil {
		t.Error("an extrapolation from one count")
	}
}

func TestSubsetsOfKID(t *testing.T) {
	a, b := drawn(1, 300, 16), drawn(2, 200, 16)
	all, _, err := KernelDistance(Go{}, a.First(200), b, 1, 200, 0)
	if err != nil {
		t.Fatal(err)
	}
	mean, deviation, err := KernelDistance(Go{}, a, b, 50, 60, 0)
	if err != nil || !(deviation > 0) || math.Abs(mean-all) > 3*deviation {
		t.Errorf("%v +- %v, %v: of all pictures it is %v", mean, deviation, err, all)
	}
	again, _, _ := KernelDistance(Go{}, a, b, 50, 60, 0)
	if again != mean {
		t.Errorf("the same seed gives %v and %v", mean, again)
	}
}

// Blocks of distances are joined.
func TestManyDistances(t *testing.T) {
	a, b := drawn(1, 2100, 4), drawn(1, 2101, 4)
	calls := 0.0
	precision, recall, err := PrecisionRecall(Go{}, a, b, 3, func(share float64) {
		if share < calls {
			t.Errorf("progress goes from %v to %v", calls, share)
		}
		calls = share
	})
	if err != nil || precision < 0.99 || recall < 0.99 || calls < 0.999 {
		t.Errorf("precision %v, recall %v of the same pictures, progress %v, %v", precision, recall, calls, err)
	}
}

func TestRefuses(t *testing.T) {
	good := drawn(1, 5, 4)
	bad := drawn(1, 5, 4)
	bad.Data[6] = float32(math.NaN())
	statistics := func(mean, cov []float64) error {
		_, err := FromStatistics(mean, cov)
		return err
	}
	fit := func(f Features) error {
		_, err := Fit(Go{}, f)
		return err
	}
	manifold := func(a, b Features) error {
		_, _, err := PrecisionRecall(Go{}, a, b, 3, nil)
		return err
	}
	kernel := func(a, b Features) error {
		_, _, err := KernelDistance(Go{}, a, b, 1, 10, 0)
		return err
	}
	score := func(f Features) error { return NewScore(4, 10).Add(f) }
	distance := func() error {
		_, err := Frechet(Go{}, mustFit(t, good), mustFit(t, drawn(1, 5, 8)))
		return err
	}
	_, _, none := NewScore(4, 10).Score()
	for _, c := range []struct {
		err  error
		want string
	}{
		{fit(bad), "feature 2 of picture 1 is NaN"},
		{fit(good.First(1)), "the covariance of one picture"},
		{fit(Features{2, 4, good.Data}), "features [2, 4] of 20 numbers"},
		{manifold(good.First(3), good), "nearest neighbours of 3 pictures: want at least 4"},
		{manifold(good, drawn(1, 5, 8)), "features of 4 and of 8 numbers"},
		{manifold(good, bad), "NaN"},
		{kernel(good, drawn(1, 5, 8)), "features of 4 and of 8 numbers"},
		{kernel(good.First(1), good), "1 subsets of 1 pictures"},
		{score(Features{1, 4, []float32{2, 0, 0, 0}}), "probability 0 of picture 0 is 2"},
		{score(drawn(1, 1, 8)), "probabilities of 8 classes, want 4"},
		{none, "the score of no picture"},
		{distance(), "features of 4 and of 8 numbers"},
		{statistics([]float64{0, 0}, []float64{1, 2}), "a mean of 2 numbers and a covariance of 2"},
		{statistics([]float64{0, math.Inf(1)}, []float64{1, 0, 0, 1}), "want finite numbers"},
		{statistics([]float64{0, 0}, []float64{1, 0.5, 0, 1}), "not symmetric"},
		{statistics([]float64{0, 0}, []float64{1, 0, 0, -1}), "negative eigenvalues"},
		{statistics([]float64{0, 0}, []float64{0, 1, 1, 0}), "negative eigenvalues"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("error %v, want %q", c.err, c.want)
		}
	}
}
