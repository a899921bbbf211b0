// Package metrics turns features of pictures into the numbers that papers print: the Frechet distance (FID and sFID, by
// the features), the inception score, precision and recall, and the kernel distance (KID). It sums in float64 and needs
// no libtorch; package inception makes the features.
//
//	a, err := metrics.Fit(alg, samples)        // mean and covariance of features [N, D]
//	b, err := metrics.ReadStatistics("ref.npz", "mu", "sigma")
//	fid, err := metrics.Frechet(alg, a, b)
//
// What is costly is left to an [Algebra]: [Go] needs nothing else, that of package inception is faster.
//
// Shape letters: N pictures, D features of one picture, R rank.
package metrics
