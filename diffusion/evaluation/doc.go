// Package evaluation compares sets of pictures: it opens what holds them, has their features made, and returns a card:
// the numbers with everything that moves them.
//
//	samples, err := evaluation.Open(ctx, "samples.npz", evaluation.OpenOptions{})
//	reference, err := evaluation.Open(ctx, "VIRTUAL_imagenet256_labeled.npz", evaluation.OpenOptions{})
//	card, err := evaluation.Evaluate(ctx, evaluation.Options{Samples: samples, Reference: reference, Network: net})
//
// A set may hold pictures, features of pictures that were made before, or statistics of features, as pytorch-fid, EDM
// and ADM publish them of references.
package evaluation
