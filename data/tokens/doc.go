// Package tokens keeps the token states of captions beside a set of latents: what a text encoder made of each distinct
// caption, [L, W], and which of them belong to which record.
//
//	summary, err := tokens.Write(ctx, "latents", captions, encoder, tokens.Options{})
//	set, err := tokens.Of(latents) // nil where there are none
//	n, err := set.Read(row, states)
package tokens
