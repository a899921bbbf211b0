package vae

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
	"github.com/ditrun/ditrun/torch/philox"
)

// TrainConfig describes a training run. [DefaultTrainConfig] fills it for small images.
type TrainConfig struct {
	Model     Config `json:"model"`
	ImageSize int    `json:"image-size"` // S of every batch
	MaxSteps  int    `json:"max-steps"`
	BatchSize int    `json:"batch-size"` // N of every batch

	// LR rises over WarmupSteps and then falls linearly to FinalLR times LR at the last step.
	LR          float64 `json:"lr"`
	WarmupSteps int     `json:"warmup-steps"`
	FinalLR     float64 `json:"final-lr"`

	// Loss is how pixels are compared: "mse" or "l1".
	Loss string `json:"loss"`
	// KLWeight is that of latent diffusion's kl_weight: the loss is the sum over all pixels of an
	// image plus KLWeight times the sum over all elements of its latent, both divided by the number
	// of pixels and channels, so that the reconstruction part is a plain mean.
	KLWeight float64 `json:"kl-weight"`
	// InitLogvar is added to the log variance of a new model. Far below zero the decoder first learns
	// from latents almost free of noise; near zero it starts by ignoring them.
	InitLogvar float64 `json:"init-logvar"`
	// ZeroResiduals starts with the last layer of every residual branch at zero, each block being its
	// shortcut. It gains 0.9 dB in 400 steps of 8 Fashion-MNIST images, and is not how published models
	// started.
	ZeroResiduals bool `json:"zero-residuals"`
	// EMADecay averages the weights; the average is what training returns. 0 returns the last weights,
	// which are as good after a learning rate that falls.
	EMADecay float64 `json:"ema-decay"`
	// MaxGradNorm limits the norm of the gradient of one step; 0 means no limit.
	MaxGradNorm float64 `json:"max-grad-norm"`

	Seed     uint64 `json:"global-seed"`
	LogEvery int    `json:"-"` // steps between two reads of the loss, which wait for the device
}

// DefaultTrainConfig trains cfg on images of its sample size.
func DefaultTrainConfig(cfg Config) TrainConfig {
	return TrainConfig{
		Model: cfg, ImageSize: cfg.SampleSize, MaxSteps: 1500, BatchSize: 8,
		LR: 2e-3, WarmupSteps: 30, FinalLR: 0.05,
		Loss: "mse", KLWeight: 0.012, InitLogvar: -6, ZeroResiduals: true, MaxGradNorm: 1,
		LogEvery: 10,
	}
}

// betas of the optimizer: the second one is short because runs are.
const beta1, beta2 = 0.9, 0.99

// Validate returns an error for the first field whose value is not allowed: the field as the command's flag spells
// it, the value and the rule.
func (c TrainConfig) Validate() error {
	if err := c.Model.validate(asFlag); err != nil {
		return err
	}
	if err := c.Model.CheckImageSize(c.ImageSize); err != nil {
		return err
	}
	if c.Model.InChannels != 3 || c.Model.OutChannels != 3 {
		return fmt.Errorf("in-channels %d and out-channels %d: want 3, for RGB", c.Model.InChannels,
			c.Model.OutChannels)
	}
	for _, f := range []struct {
		name         string
		value, least int
	}{
		{"max-steps", c.MaxSteps, 1}, {"batch-size", c.BatchSize, 1}, {"log-every", c.LogEvery, 1},
		{"warmup-steps", c.WarmupSteps, 0},
	} {
		if f.value < f.least {
			return fmt.Errorf("%s %d: want at least %d", f.name, f.value, f.least)
		}
	}
	switch {
	case !(c.LR > 0) || math.IsInf(c.LR, 0):
		return fmt.Errorf("lr %v: want a positive number", c.LR)
	case !(c.FinalLR >= 0 && c.FinalLR <= 1):
		return fmt.Errorf("final-lr %v: want a share from 0 to 1", c.FinalLR)
	case c.Loss != "mse" && c.Loss != "l1":
		return fmt.Errorf("loss %q: want mse or l1", c.Loss)
	case !(c.KLWeight >= 0 && c.KLWeight <= 1e6):
		return fmt.Errorf("kl-weight %v: want 0 to %v", c.KLWeight, 1e6)
	case !(c.InitLogvar >= -20 && c.InitLogvar <= 20):
		return fmt.Errorf("init-logvar %v: want -20 to 20", c.InitLogvar)
	case !(c.EMADecay >= 0 && c.EMADecay < 1):
		return fmt.Errorf("ema-decay %v: want at least 0 and less than 1", c.EMADecay)
	case !(c.MaxGradNorm >= 0) || math.IsInf(c.MaxGradNorm, 0):
		return fmt.Errorf("max-grad-norm %v: want a number, 0 for no limit", c.MaxGradNorm)
	}
	return nil
}

// lr returns the learning rate of step, counted from 0.
func (c TrainConfig) lr(step int) float64 {
	if step < c.WarmupSteps {
		return c.LR * float64(step+1) / float64(c.WarmupSteps)
	}
	done := float64(step-c.WarmupSteps) / float64(max(1, c.MaxSteps-1-c.WarmupSteps))
	return c.LR * (1 - (1-c.FinalLR)*done)
}

// emaDecay returns the decay after step, which grows from nothing: an average that still holds the
// first random weights would blur a short run.
func (c TrainConfig) emaDecay(step int) float64 {
	return min(c.EMADecay, float64(1+step)/float64(10+step))
}

// Batch is the input of one training step.
type Batch struct {
	Pixels []uint8 // [N, S, S, 3]; read before the next batch is
}

// Step reports a finished step.
type Step struct {
	Step int // the number of steps done
	LR   float64
	// WaitSeconds is how long the step waited for its batch.
	WaitSeconds float64
	// Losses is set on every LogEvery-th step and the last one, nil else.
	Losses *Losses
}

// Losses are the parts of a step's loss: Rec is the mean over pixels, KL the mean over the batch of
// the sums over a latent's elements, Total what was minimised, GradNorm the norm before clipping.
type Losses struct {
	Total    float64 `json:"total"`
	Rec      float64 `json:"rec"`
	KL       float64 `json:"kl"`
	GradNorm float64 `json:"grad_norm"`
}

// Train trains a new model on dev and returns it. Its scaling factor is not set: see [LatentStd].
// batches has at least MaxSteps batches. onStep, which may be nil, is called after each step.
//
// The weights depend on the configuration, the batches, the device and the number of threads
// alone. When ctx ends, Train returns the model trained so far and ctx's error; with any
// other error the model is nil. A loss that is not a number is an error that names the step.
//
// Where saves has a folder the run saves as it goes. A run that a save continues, whose batches begin with the one
// after its step, ends with the bits of one that nothing cut short. Whatever ends the run, what it did since the
// last save is saved unless the weights are no longer finite.
func Train(ctx context.Context, dev torch.Device, cfg TrainConfig, saves Saves, batches iter.Seq2[*Batch, error],
	onStep func(Step)) (*AutoencoderKL, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("train VAE: %w", err)
	}
	if onStep == nil {
		onStep = func(Step) {}
	}
	gen, err := torch.NewGenerator(torch.CPU, cfg.Seed)
	if err != nil {
		return nil, err
	}
	var m *AutoencoderKL
	err = torch.Run(dev, func(s *torch.Scope) (err error) {
		if m, err = New(s, cfg.Model); err != nil {
			return err
		}
		m.Init(s, gen)
		m.prepare(s, cfg)
		opt, err := optim.NewAdamW(nn.List(m), optim.Config{Beta1: beta1, Beta2: beta2, Eps: 1e-8}, optim.Sharding{})
		if err != nil {
			return err
		}
		defer opt.Close()
		t := &trainer{cfg: cfg, model: m, opt: opt, saves: saves, feed: newFeed(s, cfg)}
		defer t.feed.Close()
		defer t.closeUnread()
		if err := t.begin(s); err != nil {
			return err
		}
		err = t.run(ctx, s, batches, onStep)
		t.end(ctx, s)
		if err == nil || ctx.Err() != nil {
			t.useAverage(s)
		}
		return err
	})
	if err == nil {
		return m, nil
	}
	err = fmt.Errorf("train VAE: %w", err)
	if m != nil && ctx.Err() == nil {
		m.Close()
		m = nil
	}
	return m, err
}

// prepare changes new weights as cfg asks.
func (m *AutoencoderKL) prepare(s *torch.Scope, cfg TrainConfig) {
	s = s.NoGrad()
	c := m.cfg.LatentChannels
	s.Sub(func(s *torch.Scope) *torch.Tensor {
		logvar := s.Narrow(m.QuantConv.Bias, 0, c, c)
		s.Copy_(logvar, s.AddScalar(logvar, cfg.InitLogvar))
		return nil
	})
	if cfg.ZeroResiduals {
		for name, p := range nn.Params(m) {
			if strings.Contains(name, ".conv2.") || strings.Contains(name, ".to_out.0.") {
				s.Zero_(p)
			}
		}
	}
}

type trainer struct {
	cfg   TrainConfig
	model *AutoencoderKL
	opt   *optim.AdamW
	feed  *torch.Feed
	done  int // steps
	// unread holds, for each step since the last read, [total, rec, KL, gradient norm] on the device.
	unread []*torch.Tensor
	losses *Losses // the newest that were read

	saves Saves
	saved int // the step of the last save

	diverged bool // a loss was not finite
}

// begin continues the run that a save holds, and tries whether it can be saved.
func (t *trainer) begin(s *torch.Scope) error {
	if t.saves.Resume != nil {
		if err := t.saves.Resume.Fits(t.cfg); err != nil {
			return err
		}
		if err := t.load(s, t.saves.Resume); err != nil {
			return err
		}
	}
	if t.saves.Dir == "" {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(t.saves.Dir), 0o777)
	if err == nil {
		err = t.save(s, t.done)
	}
	if err != nil {
		return fmt.Errorf("save VAE: %w", err)
	}
	return nil
}

// end saves what is not saved of a run that ended. Where the losses are not finite the last save stays; one of no
// steps is of no use.
func (t *trainer) end(ctx context.Context, s *torch.Scope) {
	if len(t.unread) > 0 {
		t.read(s, t.done-1)
	}
	if t.saves.Dir != "" && t.done > t.saved && !t.diverged {
		t.trySave(context.WithoutCancel(ctx), s, t.done)
	}
	if t.saves.Dir != "" && t.saved == 0 {
		os.RemoveAll(t.saves.Dir)
	}
}

func (t *trainer) run(ctx context.Context, s *torch.Scope, batches iter.Seq2[*Batch, error], onStep func(Step)) error {
	if t.done == t.cfg.MaxSteps {
		return nil
	}
	waiting := time.Now()
	for b, err := range batches {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		step := t.done
		waited := time.Since(waiting)
		if want := t.cfg.BatchSize * t.cfg.ImageSize * t.cfg.ImageSize * 3; len(b.Pixels) != want {
			return fmt.Errorf("step %d: a batch of %d bytes, want %d (%d images of %d x %d x 3)", step+1, len(b.Pixels),
				want, t.cfg.BatchSize, t.cfg.ImageSize, t.cfg.ImageSize)
		}
		if err := s.Try(func(s *torch.Scope) error { t.step(s, step, b); return nil }); err != nil {
			return fmt.Errorf("step %d: %w", step+1, err)
		}
		t.done++
		report := Step{Step: t.done, LR: t.cfg.lr(step), WaitSeconds: waited.Seconds()}
		last := t.done == t.cfg.MaxSteps
		due := t.saves.Dir != "" && t.saves.Every > 0 && t.done%t.saves.Every == 0
		if t.done%t.cfg.LogEvery == 0 || last || due { // nothing is saved whose losses were not checked
			losses, err := t.read(s, step)
			if err != nil {
				return err
			}
			if t.done%t.cfg.LogEvery == 0 || last {
				report.Losses = losses
			}
		}
		if due {
			t.trySave(ctx, s, t.done)
		}
		onStep(report)
		if last {
			return nil
		}
		waiting = time.Now()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the batches ended after %d of %s", t.done, names.Plural(t.cfg.MaxSteps, "step"))
}

// What travels to the device for a step, in one upload.
const (
	feedPixels = iota // Uint8 [N, S, S, 3]
	feedFirst         // Int64 [1], the number of the first sample in the run
	feedRate          // Float64 scalar, the learning rate
	feedDecay         // Float64 scalar, of the average
)

func newFeed(s *torch.Scope, cfg TrainConfig) *torch.Feed {
	return torch.NewFeed(s,
		torch.Part{DType: torch.Uint8, Shape: []int{cfg.BatchSize, cfg.ImageSize, cfg.ImageSize, 3}},
		torch.Part{DType: torch.Int64, Shape: []int{1}}, torch.Part{DType: torch.Float64},
		torch.Part{DType: torch.Float64})
}

// step trains on one batch. Nothing is read back from the device.
func (t *trainer) step(s *torch.Scope, step int, b *Batch) {
	n := t.cfg.BatchSize
	copy(t.feed.Bytes(feedPixels), b.Pixels)
	binary.LittleEndian.PutUint64(t.feed.Bytes(feedFirst), uint64(step)*uint64(n))
	binary.LittleEndian.PutUint64(t.feed.Bytes(feedRate), math.Float64bits(t.cfg.lr(step)))
	binary.LittleEndian.PutUint64(t.feed.Bytes(feedDecay), math.Float64bits(t.cfg.emaDecay(step)))
	t.feed.Send()

	indices := s.Add(t.feed.Tensor(feedFirst), s.Arange(n, torch.Int64))
	side := t.cfg.ImageSize / t.cfg.Model.Downsample()
	noise := s.PhiloxNormal(t.cfg.Seed, philox.TagPosterior, s.Zeros(torch.Int64, 1), indices,
		t.cfg.Model.LatentChannels, side, side)

	total, rec, kl := t.model.loss(s, PixelsOf(s, t.feed.Tensor(feedPixels)), noise, t.cfg.Loss, t.cfg.KLWeight)
	s.Backward(total)
	opt := optim.StepOptions{LR: t.feed.Tensor(feedRate), MaxNorm: t.cfg.MaxGradNorm}
	if t.cfg.EMADecay > 0 {
		opt.EMADecay = t.feed.Tensor(feedDecay)
	}
	norm := t.opt.Step(s, opt).Norm
	values := s.NoGrad().Stack([]*torch.Tensor{total, rec, kl, norm}, 0)
	t.unread = append(t.unread, torch.Persist(values))
}

// loss returns the loss that is minimised and its two parts, see [TrainConfig] and [Losses], for
// images x [N, 3, H, W] and posterior noise [N, C, h, w].
func (m *AutoencoderKL) loss(s *torch.Scope, x, noise *torch.Tensor, kind string, klWeight float64) (total, rec,
	kl *torch.Tensor) {
	mean, logvar := m.Encode(s, x)
	y := m.Decode(s, Sample(s, mean, logvar, noise))
	if kind == "l1" {
		rec = s.Mean(s.Abs(s.Subtract(y, x)))
	} else {
		rec = s.MSELoss(y, x)
	}
	kl = s.Mean(KL(s, mean, logvar))
	elements := float64(x.NumElements() / x.Dim(0))
	return s.Add(rec, s.MulScalar(kl, klWeight/elements)), rec, kl
}

// read fetches the losses of the steps since the last read, step being the newest, and returns the
// newest.
func (t *trainer) read(s *torch.Scope, step int) (*Losses, error) {
	var rows []float32
	err := s.NoGrad().Try(func(s *torch.Scope) error {
		rows = torch.Data[float32](s.Stack(t.unread, 0))
		return nil
	})
	if err != nil {
		return nil, err
	}
	first := step + 1 - len(t.unread)
	t.closeUnread()
	for i := 0; i < len(rows); i += 4 {
		for k, what := range []string{"loss", "reconstruction loss", "KL", "gradient norm"} {
			if v := float64(rows[i+k]); math.IsNaN(v) || math.IsInf(v, 0) {
				t.diverged = true
				return nil, fmt.Errorf("step %d: the %s is %v: lower the learning rate", first+i/4+1, what, v)
			}
		}
	}
	last := rows[len(rows)-4:]
	t.losses = &Losses{float64(last[0]), float64(last[1]), float64(last[2]), float64(last[3])}
	return t.losses, nil
}

func (t *trainer) closeUnread() {
	for _, u := range t.unread {
		u.Close()
	}
	t.unread = nil
}

// useAverage replaces the weights by their average.
func (t *trainer) useAverage(s *torch.Scope) {
	if t.cfg.EMADecay == 0 {
		return
	}
	s.NoGrad().Sub(func(s *torch.Scope) *torch.Tensor {
		averages := t.opt.EMA(s)
		for i, p := range nn.List(t.model) {
			s.Copy_(p.Tensor, averages[i].Tensor)
		}
		return nil
	})
}

// LatentStd returns the standard deviation of all elements of latents drawn from the posteriors of
// the images that batches holds (square ones of side size), without drawing: the variance of the
// means plus the mean of the variances. One over it is the scaling factor of the model. It stops
// after maxImages images.
func LatentStd(ctx context.Context, m *AutoencoderKL, size, maxImages int, batches iter.Seq2[*Batch, error]) (float64,
	error) {
	std, err := latentStd(ctx, m, size, maxImages, batches)
	if err != nil {
		return 0, fmt.Errorf("measure latents: %w", err)
	}
	return std, nil
}

func latentStd(ctx context.Context, m *AutoencoderKL, size, maxImages int, batches iter.Seq2[*Batch, error]) (float64,
	error) {
	if err := m.cfg.CheckImageSize(size); err != nil {
		return 0, err
	}
	images, elements, sum, squares := 0, 0, 0.0, 0.0
	err := torch.Run(m.Device(), func(s *torch.Scope) error {
		s = s.NoGrad()
		for b, err := range batches {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return err
			}
			n := len(b.Pixels) / (3 * size * size)
			if n == 0 || len(b.Pixels) != n*3*size*size {
				return fmt.Errorf("a batch of %d bytes, want a multiple of %d (%d x %d x 3)", len(b.Pixels),
					3*size*size, size, size)
			}
			err := s.Try(func(s *torch.Scope) error {
				mean, logvar := m.Encode(s, Pixels(s, b.Pixels, n, size, size))
				mean, logvar = s.To(mean, torch.Float64), s.To(logvar, torch.Float64)
				sum += s.Sum(mean).Item()
				squares += s.Sum(s.Add(s.Square(mean), s.Exp(logvar))).Item()
				elements += mean.NumElements()
				return nil
			})
			if err != nil {
				return err
			}
			if images += n; images >= maxImages {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if images == 0 {
		return 0, errors.New("no images")
	}
	mean := sum / float64(elements)
	std := math.Sqrt(squares/float64(elements) - mean*mean)
	if !(std > 0) || math.IsInf(std, 0) {
		return 0, fmt.Errorf("the standard deviation of %s is %v: want a positive number",
			names.Plural(images, "latent"), std)
	}
	return std, nil
}
