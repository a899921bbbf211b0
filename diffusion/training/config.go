// Package training is the loop that trains a Diffusion Transformer on latents: noise, loss, AdamW,
// the average of the weights, checkpoints. It takes them from a source of package samples, reports through [Hooks] and
// writes no text and no pictures itself.
//
//	set, err := latents.Open("latents")
//	src, err := samples.Latents(set)
//	config, err := training.ConfigFor("DiT-S/2", src.Set())
//	result, err := training.Run(ctx, training.Job{Device: torch.CPU, Config: config, Source: src, Dir: "checkpoints"})
//
// The checkpoint that result names opens with sampling.Open. The [example] is a whole run.
//
// Everything random in a run is a function of its seed and of the position of a sample in the run
// (package philox), so that a run can be stopped at any step and continued with the same stream.
//
// [example]: https://pkg.go.dev/github.com/ditrun/ditrun/diffusion/training#example-package
package training

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/flow"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// Config is everything that decides what a run computes. It is kept with the run.
type Config struct {
	Model           dit.Config   `yaml:"model" json:"model"`
	ImageSize       picture.Size `yaml:"image_size" json:"image_size"` // of pictures, for the record
	GlobalBatchSize int          `yaml:"global_batch_size" json:"global_batch_size"`
	Epochs          int          `yaml:"epochs" json:"epochs"`
	MaxSteps        int          `yaml:"max_steps" json:"max_steps"` // 0: Epochs alone decides
	LR              float64      `yaml:"lr" json:"lr"`
	WarmupSteps     int          `yaml:"warmup_steps" json:"warmup_steps"` // linear from zero
	LRSchedule      string       `yaml:"lr_schedule" json:"lr_schedule"`   // constant, linear or cosine
	// where linear and cosine end, as a share of LR
	FinalLR     float64 `yaml:"final_lr" json:"final_lr"`
	WeightDecay float64 `yaml:"weight_decay" json:"weight_decay"`
	EMADecay    float64 `yaml:"ema_decay" json:"ema_decay"`
	EMAWarmup   bool    `yaml:"ema_warmup" json:"ema_warmup"`       // decay (1+t)/(10+t) while that is less
	MaxGradNorm float64 `yaml:"max_grad_norm" json:"max_grad_norm"` // 0: no clipping
	FlipProb    float64 `yaml:"flip_prob" json:"flip_prob"`         // 0 where the latents hold one view
	// shuffle (also "") or block, see package data
	DataOrder     string       `yaml:"data_order" json:"data_order"`
	Precision     nn.Precision `yaml:"precision" json:"precision"` // fp32, tf32 or bf16
	GlobalSeed    uint64       `yaml:"global_seed" json:"global_seed"`
	Deterministic bool         `yaml:"deterministic" json:"deterministic"`
	// Orientation of the pictures, for the record; "" is picture.AsStored.
	Orientation picture.Orientation `yaml:"orientation" json:"orientation"`
	// Accumulation is the number of parts in which each process takes its share of a batch, one after the other,
	// adding up their gradients; 0 means 1. It changes no more than rounding, and the memory of activations.
	Accumulation int `yaml:"gradient_accumulation_steps" json:"gradient_accumulation_steps"`
	// Recompute keeps of each block but its input and computes the rest again for the gradients: less memory, a
	// third more time, the same bits.
	Recompute bool `yaml:"recompute_activations" json:"recompute_activations"`
	// OnBadStep says what follows a step whose loss or gradient is no finite number or, with SpikeFactor F > 0, whose
	// loss is above F times its running mean. No such step is applied. "stop" (also ""): the run ends with an error;
	// "skip": it goes on; "rollback": it goes on from the last checkpoint with the batches that come next.
	OnBadStep   string  `yaml:"on_bad_step" json:"on_bad_step"`
	SpikeFactor float64 `yaml:"spike_factor" json:"spike_factor"`

	// Objective is what the model predicts: eps (also ""), the noise of DiT's 1000 steps; or velocity, noise, score or
	// data on the path of a flow.
	Objective string `yaml:"objective" json:"objective"`
	// Path of a flow, with noise at t = 0 and data at 1: linear (also ""), gvp or vp.
	Path string `yaml:"path" json:"path"`
	// TimeSampling of a flow is uniform (also ""), logit-normal or logit-normal:MEAN,STD.
	TimeSampling string  `yaml:"time_sampling" json:"time_sampling"`
	TimeShift    float64 `yaml:"time_shift" json:"time_shift"` // of a flow, see schedule.Shift; 1 for none
	// LossWeight is none (also ""); of eps also min-snr; of noise, score and data also velocity and likelihood.
	LossWeight string `yaml:"loss_weight" json:"loss_weight"`

	LogEvery    int `yaml:"log_every" json:"log_every"`
	CkptEvery   int `yaml:"ckpt_every" json:"ckpt_every"`
	SampleEvery int `yaml:"sample_every" json:"sample_every"` // 0: no previews
	// Of the checkpoints the last KeepLast stay (0: all), and those whose step is a multiple of KeepEvery (0: no
	// others).
	KeepLast  int `yaml:"keep_last" json:"keep_last"`
	KeepEvery int `yaml:"keep_every" json:"keep_every"`

	// Init holds the weights to start from, under the published names and of the sizes of Model; nil
	// draws new ones as the paper does. A run that is continued does not look at it.
	Init checkpoint.Source `yaml:"-" json:"-"`
}

// DefaultConfig is the recipe of the paper: AdamW at 1e-4 without decay or schedule, batch 256, an
// average of decay 0.9999, 1400 epochs. Model and ImageSize are the caller's.
var DefaultConfig = Config{
	GlobalBatchSize: 256, Epochs: 1400, LR: 1e-4, LRSchedule: "constant", EMADecay: 0.9999, FlipProb: 0.5,
	DataOrder: stream.ShuffleOrder, Precision: nn.FP32,
	Accumulation: 1, OnBadStep: "stop", LogEvery: 100, CkptEvery: 50000,
	Objective: onEps, TimeSampling: uniformTimes, TimeShift: 1, LossWeight: string(flow.WeightNone),
}

// Validate returns an error for the first field whose value is not allowed: the field as the command's flag spells
// it, the value and the rule. A model that cannot be built is named by its sizes: "model DiT-192x6x7/2: ...".
func (c Config) Validate() error {
	if err := c.ValidateRecipe(); err != nil {
		return err
	}
	switch p := c.Model.ClassDropoutProb; {
	case !(p >= 0 && p < 1):
		return fmt.Errorf("class-dropout-prob %v: want at least 0 and less than 1", p)
	case c.Model.HasClass() && c.Model.NumClasses < 1:
		return fmt.Errorf("num-classes %d: want at least 1", c.Model.NumClasses)
	}
	if err := c.Model.Validate(); err != nil {
		return fmt.Errorf("model %s: %w", c.Model.Name(), err)
	}
	return nil
}

// ValidateRecipe is Validate of all but Model, whose sizes are known only once the latents are open: mistakes are to
// be found before.
func (c Config) ValidateRecipe() error {
	for _, f := range []struct {
		name         string
		value, least int
	}{
		{"global-batch-size", c.GlobalBatchSize, 1}, {"epochs", c.Epochs, 0}, {"max-steps", c.MaxSteps, 0},
		{"warmup-steps", c.WarmupSteps, 0}, {"log-every", c.LogEvery, 1}, {"ckpt-every", c.CkptEvery, 1},
		{"sample-every", c.SampleEvery, 0}, {"keep-last", c.KeepLast, 0}, {"keep-every", c.KeepEvery, 0},
	} {
		if f.value < f.least {
			return fmt.Errorf("%s %d: want at least %d", f.name, f.value, f.least)
		}
	}
	switch {
	case c.Epochs == 0 && c.MaxSteps == 0:
		return errors.New("epochs 0 and max-steps 0: want at least one of them positive")
	case c.Accumulation < 0:
		return fmt.Errorf("gradient-accumulation-steps %d: want at least 1", c.Accumulation)
	case c.GlobalBatchSize%c.parts() != 0:
		return fmt.Errorf("gradient-accumulation-steps %d: want a number that divides global-batch-size %d",
			c.Accumulation, c.GlobalBatchSize)
	case !(c.LR > 0) || math.IsInf(c.LR, 0):
		return fmt.Errorf("lr %v: want a positive number", c.LR)
	case !(c.FinalLR >= 0 && c.FinalLR <= 1):
		return fmt.Errorf("final-lr %v: want a share from 0 to 1", c.FinalLR)
	case !(c.WeightDecay >= 0):
		return fmt.Errorf("weight-decay %v: want at least 0", c.WeightDecay)
	case !(c.EMADecay >= 0 && c.EMADecay < 1):
		return fmt.Errorf("ema-decay %v: want at least 0 and less than 1", c.EMADecay)
	case !(c.MaxGradNorm >= 0):
		return fmt.Errorf("max-grad-norm %v: want at least 0", c.MaxGradNorm)
	case !(c.FlipProb >= 0 && c.FlipProb <= 1):
		return fmt.Errorf("flip-prob %v: want 0 to 1", c.FlipProb)
	case !(c.SpikeFactor == 0 || c.SpikeFactor > 1) || math.IsInf(c.SpikeFactor, 0):
		return fmt.Errorf("spike-factor %v: want a number above 1, or 0 for none", c.SpikeFactor)
	}
	return c.validateChoices()
}

// validateChoices is Validate of the fields that take one of a few words.
func (c Config) validateChoices() error {
	switch {
	case !slices.Contains([]string{"constant", "linear", "cosine"}, c.LRSchedule):
		return fmt.Errorf("lr-schedule %q: want constant, linear or cosine", c.LRSchedule)
	case !slices.Contains([]string{"", stream.ShuffleOrder, stream.BlockOrder}, c.DataOrder):
		return fmt.Errorf("data-order %q: want %s or %s", c.DataOrder, stream.ShuffleOrder, stream.BlockOrder)
	case !slices.Contains([]string{"", "stop", "skip", "rollback"}, c.OnBadStep):
		return fmt.Errorf("on-bad-step %q: want stop, skip or rollback", c.OnBadStep)
	}
	if err := c.validateObjective(); err != nil {
		return err
	}
	if err := c.Precision.Validate(); err != nil {
		return err
	}
	return c.Orientation.Validate()
}

// check compares the configuration with what there is to train on.
func (c Config) check(set samples.Set, world int) error {
	if err := c.Validate(); err != nil {
		return err
	}
	switch {
	case set.Channels != c.Model.InChannels || set.Height != c.Model.InputSize || set.Width != c.Model.Width():
		return fmt.Errorf("latents are %dx%dx%d, the model wants %dx%dx%d", set.Channels, set.Height, set.Width,
			c.Model.InChannels, c.Model.InputSize, c.Model.Width())
	case c.Model.HasText() && set.Text == nil:
		return fmt.Errorf("latents %s have no captions: encode-latents --captions adds them", set.Name)
	case c.Model.HasText() &&
		(set.Text.Encoder.Width != c.Model.TextWidth || set.Text.Encoder.Length > c.Model.TextLength):
		return fmt.Errorf("captions of %s of width %d, the model wants up to %d of width %d",
			names.Plural(set.Text.Encoder.Length, "token"), set.Text.Encoder.Width, c.Model.TextLength,
			c.Model.TextWidth)
	case c.Model.HasClass() && len(set.Classes) > c.Model.NumClasses:
		return fmt.Errorf("latents have %s, the model has %d", names.Plural(len(set.Classes), "class"),
			c.Model.NumClasses)
	case c.CheckBatch(set.Samples) != nil:
		return c.CheckBatch(set.Samples)
	case c.GlobalBatchSize%(world*c.parts()) != 0:
		return fmt.Errorf("global batch size %d is not divisible by %s times %s", c.GlobalBatchSize,
			names.Plural(world, "process"), names.Plural(c.parts(), "accumulated part"))
	case c.FlipProb > 0 && !set.Flip:
		return fmt.Errorf("flip probability %v, but the latents hold no mirrored view: encode them with --flip "+
			"both, or train without flips", c.FlipProb)
	case !(set.ScalingFactor > 0):
		return fmt.Errorf("latents have a scaling factor of %v, want a positive number", set.ScalingFactor)
	}
	return nil
}

// CheckBatch returns an error if n samples are not enough for a batch. It names the field as [Config.Validate] does.
func (c Config) CheckBatch(n int) error {
	if n < c.GlobalBatchSize {
		return fmt.Errorf("global-batch-size %d is larger than the data set of %s", c.GlobalBatchSize,
			names.Plural(n, "sample"))
	}
	return nil
}

// StepFLOPs is the arithmetic of the model in a step of all processes: that of three forward passes, the backward pass
// being counted as two of them, of two operations a multiply-accumulate.
func (c Config) StepFLOPs() float64 { return 3 * 2 * c.Model.MACs() * float64(c.GlobalBatchSize) }

// Steps returns the number of steps of a run over n samples.
func (c Config) Steps(n int) int {
	steps := c.Epochs * (n / c.GlobalBatchSize)
	if c.MaxSteps > 0 && (c.Epochs < 1 || c.MaxSteps < steps) {
		return c.MaxSteps
	}
	return steps
}

// parts returns the number of parts of a step on each process.
func (c Config) parts() int { return max(c.Accumulation, 1) }

// emaDecay returns the decay of the average at step (from 0).
func (c Config) emaDecay(step int) float64 {
	if c.EMAWarmup {
		return min(c.EMADecay, float64(1+step)/float64(10+step))
	}
	return c.EMADecay
}

// learningRate returns the rate of step (from 0) of a run of total steps.
func (c Config) learningRate(step, total int) float64 {
	if step < c.WarmupSteps {
		return c.LR * float64(step+1) / float64(c.WarmupSteps)
	}
	if c.LRSchedule == "constant" {
		return c.LR
	}
	done := float64(step-c.WarmupSteps) / float64(max(total-c.WarmupSteps, 1))
	if c.LRSchedule == "cosine" {
		done = (1 - math.Cos(math.Pi*done)) / 2
	}
	return c.LR * (1 - (1-c.FinalLR)*done)
}
