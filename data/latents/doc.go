// Package latents keeps encoded pictures: shards of moments, [2C, h, w] for a sample, C channels of mean and C of log
// variance, not scaled, and a manifest with the checksums of all.
//
//	w, err := latents.NewWriter("latents", plan)
//	for claim, err := range w.Claims(ctx, rank, world) {
//		err = claim.Add(ids, moments, flipped, labels)
//		err = claim.Commit()
//	}
//	manifest, err := w.Finish(ctx)
//
//	set, err := latents.Open("latents")
//	err = set.Read(i, false, record)
//
// A shard is there whole or not at all. Several processes, on one machine or many, share the work by locks; bytes
// do not depend on who made what.
package latents
