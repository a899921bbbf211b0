// Package data turns folders of pictures into training input: it lists sources, decodes and crops them by package
// picture, keeps encoded latents in checksummed shards, and hands out batches in an order that depends on nothing but
// a seed.
//
// The road through the package:
//
//	src, err := data.Open("pictures")                     // class folders or MNIST-family IDX files
//	for b, err := range data.ImageBatches(ctx, src, o)    // uint8 crops, shuffled, for training a VAE
//	for b, err := range data.ImageRange(ctx, src, lo, hi, o) // the same in catalogue order, for encoding
//
//	w, err := data.NewShardWriter("latents", plan)        // safetensors shards, manifest.json last
//	l, err := data.OpenLatents("latents")
//	for b, err := range l.Batches(ctx, o)                 // posterior moments, shuffled, for training a DiT
//
// Shape letters: N samples, H and W height and width of the crop, C latent channels, h and w latent height and width.
// Moments are [2C, h, w] for one sample: C channels of mean, then C of log variance, not scaled.
//
// The package links C only by way of package picture, and never libtorch.
package data
