// Package stream hands out batches: of latents for training a DiT, of crops for training an autoencoder or for
// encoding. The order is a pure function of a seed and the epoch, so that a run continues from any step on any
// number of processes. Batches are prepared ahead by workers, and do not depend on their number.
//
// Shape letters: N samples, H and W height and width of the crop, C latent channels, h and w latent height and width.
package stream
