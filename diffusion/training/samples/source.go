// Package samples is where the samples of a training run come from: encoded latents, read batch by batch or all in
// the memory of the device, with the captions that they have, or pictures that are encoded as they are needed. It joins
// the packages below data, which read, with the tensors of package torch; package training asks for a [Source] and
// knows no more of them. While a run begins, its latents are compared with their checksums ([Comparison]).
package samples

import (
	"context"
	"iter"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/torch"
)

// A Source hands out the samples of a run, each as the moments of its posterior.
type Source interface {
	// Set describes what is trained on.
	Set() Set
	// Batches yields this process's parts of the batches, in the order that o asks for. A batch is overwritten when the
	// next is read.
	Batches(ctx context.Context, o stream.Options) iter.Seq2[Batch, error]
}

// A PictureSource is a source that encodes pictures at every step: where one cannot be trained on it is named.
type PictureSource interface {
	Source
	PictureName(id int) string // of a sample
}

// Set describes the samples of a source.
type Set struct {
	Name                    string // for people, such as the folder
	Samples                 int
	Classes                 []string
	Channels, Height, Width int // of a latent
	ImageSize               picture.Size
	Flip                    bool // whether there are mirrored views
	ScalingFactor           float64
	Hash                    string // of the catalogue
	Kind                    string // latents, or pictures, which are encoded as they are needed
	VAE                     string // hex SHA-256 of the weights that make the latents
	VAEName                 string // what the latents call them, or the run, which encodes pictures
	Text                    *Text  // captions, nil where there are none
	Orientation             picture.Orientation
	LeftOut                 int // bad pictures that are not among the samples
}

// Text describes the captions of a set, as token states.
type Text struct {
	Encoder tokens.EncoderInfo
	// Null are the states [L, W] of the empty caption, which takes the place of one that is dropped, and NullTokens its
	// number of tokens.
	Null       []float32
	NullTokens int
}

// Tokens returns the states [N, L, W] of the captions of a batch and their lengths [N], those of the empty caption
// where they are dropped.
func (t *Text) Tokens(s *torch.Scope, b Batch, dropped []bool) (states, lengths *torch.Tensor) {
	n, size := len(dropped), t.Encoder.Length*t.Encoder.Width
	values, counts := make([]float32, n*size), make([]int64, n)
	copy(values, b.Tokens)
	for i, drop := range dropped {
		counts[i] = int64(b.TokenLengths[i])
		if drop {
			copy(values[i*size:(i+1)*size], t.Null)
			counts[i] = int64(t.NullTokens)
		}
	}
	return torch.From(s, values, n, t.Encoder.Length, t.Encoder.Width), torch.From(s, counts, n)
}

// WithText adds the captions of l to its description.
func (set Set) WithText(l *latents.Set) (Set, error) {
	t, err := tokens.Of(l)
	if err != nil || t == nil {
		return set, err
	}
	null, tokens, err := t.Null()
	set.Text = &Text{t.Encoder(), null, tokens}
	return set, err
}

// Batch is a part of the batch of one step.
type Batch struct {
	*stream.Batch
	// Moments returns mean and log variance [N, 2C, h, w], unscaled, on the device of s.
	Moments func(s *torch.Scope) *torch.Tensor
}

// Latents is the source of encoded latents, with the captions that they have, read batch by batch. Meanwhile they are
// compared with their checksums, once; damage ends the batches with an error.
func Latents(l *latents.Set) (Source, error) {
	set, err := SetOf(l).WithText(l)
	return stored{l, set, &Comparison{latents: l}}, err
}

type stored struct {
	encoded    *latents.Set
	set        Set
	comparison *Comparison
}

func (l stored) Set() Set { return l.set }

// SetOf describes encoded latents.
func SetOf(l *latents.Set) Set {
	m := l.Manifest()
	return Set{Name: l.Dir(), Kind: "latents", Samples: l.Len(), Classes: l.Classes(), Channels: m.Channels,
		Height: m.Height, Width: m.Width, ImageSize: m.ImageSize, Flip: m.Flip, ScalingFactor: m.VAE.ScalingFactor,
		Hash: m.Dataset.Hash, VAE: m.VAE.SHA256, VAEName: m.VAE.Name, Orientation: m.Orientation}
}

func (l stored) Batches(ctx context.Context, o stream.Options) iter.Seq2[Batch, error] {
	m := l.encoded.Manifest()
	return l.comparison.during(o, func(yield func(Batch, error) bool) {
		for b, err := range stream.Batches(ctx, l.encoded, o) {
			if err != nil {
				yield(Batch{}, err)
				return
			}
			moments := func(s *torch.Scope) *torch.Tensor {
				return torch.From(s, b.Moments, len(b.IDs), 2*m.Channels, m.Height, m.Width)
			}
			if !yield(Batch{b, moments}, nil) {
				return
			}
		}
	})
}
