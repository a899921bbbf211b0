package training

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/philox"
)

// What travels to the device for each part of a step, in one upload.
const (
	feedData    = iota // of the source, see samples.Input
	feedLabels         // Int64 [N]
	feedFirst          // Int64 [1], the number of the first sample in the run
	feedRate           // Float64 scalar, the learning rate
	feedDecay          // Float64 scalar, of the average
	feedTokens         // Float16 [N, L, W], with captions
	feedLengths        // Int64 [N], with captions
)

// An intake takes samples to the device and draws there what they are trained with.
type intake struct {
	feed    *torch.Feed
	moments func(s *torch.Scope, data *torch.Tensor) *torch.Tensor
	null    *torch.Tensor // the empty caption, Float16 [1, L, W]; nil without captions
}

// newIntake makes room for parts of n samples.
func newIntake(s *torch.Scope, cfg Config, src samples.Source, n int) *intake {
	input := src.Input()
	parts := []torch.Part{
		feedData:   {DType: input.DType, Shape: append([]int{n}, input.Shape...)},
		feedLabels: {DType: torch.Int64, Shape: []int{n}},
		feedFirst:  {DType: torch.Int64, Shape: []int{1}},
		feedRate:   {DType: torch.Float64},
		feedDecay:  {DType: torch.Float64},
	}
	in := &intake{moments: input.Moments}
	if cfg.Model.HasText() {
		text := src.Set().Text
		length, width := text.Encoder.Length, text.Encoder.Width
		parts = append(parts, torch.Part{DType: torch.Float16, Shape: []int{n, length, width}},
			torch.Part{DType: torch.Int64, Shape: []int{n}})
		in.null = torch.Persist(s.FromBytes(torch.Float16, text.Null, 1, length, width))
	}
	in.feed = torch.NewFeed(s, parts...)
	return in
}

func (in *intake) close() {
	in.feed.Close()
	if in.null != nil {
		in.null.Close()
	}
}

// send uploads a part of a batch, and what the step that it is of has to know: what its samples are trained with
// depends on nothing else.
func (r *runner) send(b samples.Batch) error {
	cfg, feed := r.cfg, r.intake.feed
	type count struct {
		what       string
		have, room int
	}
	counts := []count{{"bytes", len(b.Data), len(feed.Bytes(feedData))},
		{"labels", len(b.Labels), len(feed.Bytes(feedLabels)) / 8}}
	if cfg.Model.HasText() {
		counts = append(counts, count{"bytes of captions", len(b.Tokens), len(feed.Bytes(feedTokens))},
			count{"lengths of captions", len(b.TokenLengths), len(feed.Bytes(feedLengths)) / 8})
	}
	for _, c := range counts {
		if c.have != c.room {
			return fmt.Errorf("a batch of %d %s, want %d", c.have, c.what, c.room)
		}
	}
	labels := feed.Bytes(feedLabels)
	for i, label := range b.Labels {
		if cfg.Model.HasClass() && (label < 0 || label >= int64(cfg.Model.NumClasses)) {
			return fmt.Errorf("sample %d has label %d, which is out of range: the model has classes 0 to %d",
				b.IDs[i], label, cfg.Model.NumClasses-1)
		}
		binary.LittleEndian.PutUint64(labels[8*i:], uint64(label))
	}
	copy(feed.Bytes(feedData), b.Data)
	binary.LittleEndian.PutUint64(feed.Bytes(feedFirst),
		uint64(b.Position.Batch)*uint64(cfg.GlobalBatchSize)+uint64(b.Slot))
	binary.LittleEndian.PutUint64(feed.Bytes(feedRate), math.Float64bits(cfg.learningRate(r.step, r.total)))
	binary.LittleEndian.PutUint64(feed.Bytes(feedDecay), math.Float64bits(cfg.emaDecay(r.step)))
	if cfg.Model.HasText() {
		copy(feed.Bytes(feedTokens), b.Tokens)
		lengths := feed.Bytes(feedLengths)
		for i, n := range b.TokenLengths {
			binary.LittleEndian.PutUint64(lengths[8*i:], uint64(n))
		}
	}
	feed.Send()
	return nil
}

// A part is what the model is trained on at once: latents x0 and noise [N, C, h, w], times and condition.
type part struct {
	x0, noise *torch.Tensor
	t         *torch.Tensor // [N], of the objective
	cond      dit.Condition
}

// first is the part of its first n samples.
func (p part) first(s *torch.Scope, n int) part {
	cut := func(x *torch.Tensor) *torch.Tensor {
		if x == nil {
			return nil
		}
		return s.Narrow(x, 0, 0, n)
	}
	return part{cut(p.x0), cut(p.noise), cut(p.t),
		dit.Condition{Labels: cut(p.cond.Labels), Tokens: cut(p.cond.Tokens), Lengths: cut(p.cond.Lengths)}}
}

// inputs draws what the samples that were sent last are trained with: latents from their posteriors, noise, times and
// labels and captions, some of which are dropped, both of a sample at once, for the null class and the empty caption.
// All of it depends on the seed and the samples' places in the run alone. Nothing of it needs the host.
func (r *runner) inputs(s *torch.Scope) part {
	s = s.NoGrad()
	cfg, set, feed := r.cfg, r.set, r.intake.feed
	labels := feed.Tensor(feedLabels)
	indices := s.Add(feed.Tensor(feedFirst), s.Arange(labels.Dim(0), torch.Int64))
	draw := s.Zeros(torch.Int64, 1) // in training all draws are of step 0
	normal := func(tag uint32) *torch.Tensor {
		return s.PhiloxNormal(cfg.GlobalSeed, tag, draw, indices, set.Channels, set.Height, set.Width)
	}
	uniform := func(tag uint32) *torch.Tensor { return s.PhiloxUniform(cfg.GlobalSeed, tag, draw, indices) }
	p := part{t: r.objective.Time(s, uniform(philox.TagTimestep)), noise: normal(philox.TagStartNoise)}
	moments := s.Chunk(r.intake.moments(s, feed.Tensor(feedData)), 2, 1)
	mean, logVar := moments[0], moments[1]
	p.x0 = s.MulScalar(s.Addcmul(mean, s.Exp(s.MulScalar(logVar, 0.5)), normal(philox.TagPosterior)), set.ScalingFactor)
	dropped := s.LtScalar(uniform(philox.TagLabelDrop), cfg.Model.ClassDropoutProb)
	integer := func(v int) *torch.Tensor { return s.Full(float64(v), torch.Int64, 1) }
	if cfg.Model.HasClass() {
		rows := r.model.YEmbedder.Table.Weight.Dim(0)
		p.cond.Labels = s.Clamp(s.Where(dropped, integer(cfg.Model.NullClass()), labels), 0, float64(rows-1))
	}
	if cfg.Model.HasText() {
		p.cond.Tokens = s.Where(s.Reshape(dropped, -1, 1, 1), r.intake.null, feed.Tensor(feedTokens))
		p.cond.Lengths = s.Where(dropped, integer(set.Text.NullTokens), feed.Tensor(feedLengths))
	}
	return p
}
