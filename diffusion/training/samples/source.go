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
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// A Source hands out the samples of a run.
type Source interface {
	// Set describes what is trained on.
	Set() Set
	// Input says what batches hold of the samples.
	Input() Input
	// Batches yields this process's parts of the batches, in the order that o asks for. A batch is overwritten when the
	// next is read.
	Batches(ctx context.Context, o stream.Options) iter.Seq2[Batch, error]
}

// Input is what a source gives of each sample, and what the device makes of it.
type Input struct {
	DType torch.DType
	Shape []int // of one sample
	// Moments makes mean and log variance [N, 2C, h, w] of data [N, Shape...]: Float32, unscaled.
	Moments func(s *torch.Scope, data *torch.Tensor) *torch.Tensor
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
	// Null are the states [L, W] of the empty caption, Float16 in bytes, which takes the place of one that is dropped,
	// and NullTokens its number of tokens.
	Null       []byte
	NullTokens int
}

// WithText adds the captions of l to its description.
func (set Set) WithText(l *latents.Set) (Set, error) {
	t, err := tokens.Of(l)
	if err != nil || t == nil {
		return set, err
	}
	text := &Text{Encoder: t.Encoder(), Null: make([]byte, t.RowBytes())}
	text.NullTokens, err = t.ReadStored(0, text.Null)
	set.Text = text
	return set, err
}

// Batch is a part of the batch of one step.
type Batch struct {
	*stream.Batch
	Data []byte // what the Input of the source says, of each sample
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

// Input is the moments themselves.
func (l stored) Input() Input {
	m := l.encoded.Manifest()
	return Input{dtypeOf(m), []int{2 * m.Channels, m.Height, m.Width},
		func(s *torch.Scope, data *torch.Tensor) *torch.Tensor { return s.To(data, torch.Float32) }}
}

// dtypeOf is the type of stored moments.
func dtypeOf(m *latents.Manifest) torch.DType {
	if m.DType == checkpoint.F16 {
		return torch.Float16
	}
	return torch.Float32
}

// SetOf describes encoded latents.
func SetOf(l *latents.Set) Set {
	m := l.Manifest()
	return Set{Name: l.Dir(), Kind: "latents", Samples: l.Len(), Classes: l.Classes(), Channels: m.Channels,
		Height: m.Height, Width: m.Width, ImageSize: m.ImageSize, Flip: m.Flip, ScalingFactor: m.VAE.ScalingFactor,
		Hash: m.Dataset.Hash, VAE: m.VAE.SHA256, VAEName: m.VAE.Name, Orientation: m.Orientation}
}

func (l stored) Batches(ctx context.Context, o stream.Options) iter.Seq2[Batch, error] {
	return l.comparison.during(o, func(yield func(Batch, error) bool) {
		for b, err := range stream.Batches(ctx, l.encoded, o) {
			if err != nil {
				yield(Batch{}, err)
				return
			}
			if !yield(Batch{b, b.Moments}, nil) {
				return
			}
		}
	})
}
