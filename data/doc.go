// Package data is the house of what turns pictures into training input; it holds no code itself. Its rooms, from the
// ground up, each knowing those before it alone:
//
//	picture    decodes and crops
//	filename   tells pictures, archives and parts of a data set by their names
//	classes    what classes are called, and which of them a user means
//	labels     which class a picture is of, as files say it
//	archive    reads tar archives of pictures, table parquet files, idx those of MNIST
//	catalog    lists what a location holds: pictures, labels, classes (store reads files here and at S3)
//	captions   finds the texts of the samples of a catalogue
//	latents    keeps encoded pictures in checksummed shards that several processes make together
//	tokens     keeps the token states of captions beside latents
//	stream     hands out batches in an order that depends on nothing but a seed
//	interop    other programs' latents
//
// The road through them:
//
//	src, err := catalog.Open(ctx, "pictures", catalog.Options{})
//	for b, err := range stream.Images(ctx, src, o)           // uint8 crops, shuffled, for training a VAE
//	for b, err := range stream.ImageRange(ctx, src, 0, n, o) // the same in catalogue order, for encoding
//
//	w, err := latents.NewWriter("latents", plan)             // safetensors shards, manifest.json last
//	set, err := latents.Open("latents")
//	for b, err := range stream.Batches(ctx, set, o)          // posterior moments, shuffled, for training a DiT
//
// None of them links libtorch; C is linked by picture alone.
package data
