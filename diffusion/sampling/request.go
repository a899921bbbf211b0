package sampling

import (
	"fmt"

	"github.com/ditrun/ditrun/diffusion/solver"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/philox"
)

// A Request says what to sample: as many pictures as there are labels or captions, of which it holds those that
// the model takes. In the other fields the zero value stands for the default.
type Request struct {
	Labels     []int     // for models of classes: one a picture
	Captions   []Caption // for models of text: one a picture, see [Pipeline.Encode]
	Null       Caption   // for models of text under guidance: what to steer away from, the empty or a negative prompt
	NumSamples int       // for models without condition: the number of pictures

	CFGScale float64            // classifier-free guidance; 1, or 0, is none
	Guided   dit.GuidedChannels // default GuideThree, as DiT and SiT, for models whose noise is at 1 GuideAll, as REPA
	// Guide is a weaker model that guidance leads away from, under the same condition (autoguidance, Karras et al.
	// 2024): such as a smaller one, or this one earlier in its training. Its channels are all by default. Nil stands
	// for the model itself without its condition.
	Guide *dit.DiT
	// GuidanceRescale brings the guided channels back to the deviation that they have without guidance, 1 all the way;
	// see [dit.Guidance].
	GuidanceRescale float64
	// GuidanceInterval is the first and the last of the times of the model at which a step is guided; default all.
	GuidanceInterval [2]float64
	Solver           string // one of [Solvers]; default ddpm, for flows sde-euler
	// Steps is how many intervals the grid has, and for Timesteps "respaced" what gaussian.New reads; default "250".
	// Dopri5 takes none.
	Steps string
	// Timesteps is the grid, see package schedule; default "respaced" for ddpm and ddim on DiT's steps, else
	// "linspace". It may also list the times of the model at which steps begin, as "999,850,400".
	Timesteps string
	SDE       solver.SDE // of solvers that follow one; by default SiT's, for models whose noise is at 1 REPA's
	// Process is what the model was trained on. A [Pipeline] knows it; nil stands for DiT's in [Latents].
	Process *dit.Process

	Seed      uint64
	RNG       string                // "image" (default) or "torch"
	BatchSize int                   // pictures at a time; default all, which RNG "torch" requires
	First     int                   // index of the first picture: the noise of a picture depends on its index
	Progress  func(done, total int) // sampling steps over all batches; may be nil
	Warn      func(text string)     // what makes drawing slow, one line; may be nil
	// Latents gets the scaled latents of each batch in order, [n, C, I, J], before they are decoded; may be nil.
	Latents func(x []float32, shape []int)
}

// A Caption is a text that an encoder has encoded.
type Caption struct {
	States []float32 // [L, W], L and W being those of the model
	Length int       // of the L tokens, how many are no padding, the first ones
}

// RNG "image" gives each picture noise that depends on the seed and the picture's index alone. RNG
// "torch" draws from libtorch's generator in the order of the original's sample.py.
const (
	rngImage = "image"
	rngTorch = "torch"
)

// maxCFGScale is far above what shows anything, and keeps the arithmetic finite.
const maxCFGScale = 1e6

// WithDefaults returns r with the defaults in the place of zero values.
func (r Request) WithDefaults() Request {
	r.setDefaults()
	return r
}

// DefaultTimesteps says whether Timesteps is the grid that the solver has by default.
func (r Request) DefaultTimesteps() bool {
	given := r.WithDefaults().Timesteps
	r.Timesteps = ""
	return given == r.WithDefaults().Timesteps
}

// setDefaults gives the fields of value zero their defaults.
func (r *Request) setDefaults() {
	if r.CFGScale == 0 {
		r.CFGScale = 1
	}
	r.setSolver()
	if r.RNG == "" {
		r.RNG = rngImage
	}
	if n := r.Len(); r.BatchSize == 0 || r.BatchSize > n && n > 0 {
		r.BatchSize = n
	}
}

// Validate returns an error for the first value that is wrong whatever the model, and where Process says what the model
// was trained on, also for what that cannot take. It begins with the term that the command has for it: "cfg-scale 0.5:
// want ...".
func (r Request) Validate() error {
	if r.Solver == ddpm && r.Process == nil { // which only DiT's own process has
		r.Process = &dit.Process{}
	}
	r.setDefaults()
	switch {
	case !(r.CFGScale >= 1): // NaN too
		return fmt.Errorf("cfg-scale %v: want a number from 1 (no guidance) up", r.CFGScale)
	case r.CFGScale > maxCFGScale:
		return fmt.Errorf("cfg-scale %v: want at most %.0f", r.CFGScale, maxCFGScale)
	}
	if err := r.validateGuidance(); err != nil {
		return err
	}
	if err := r.validateSolver(); err != nil {
		return err
	}
	switch {
	case r.RNG != rngImage && r.RNG != rngTorch:
		return fmt.Errorf("rng %q: want image, torch", r.RNG)
	case r.BatchSize < 0:
		return fmt.Errorf("batch-size %d: want at least 0", r.BatchSize)
	case r.RNG == rngTorch && r.BatchSize < r.Len():
		return fmt.Errorf("batch-size %d: with rng torch all %d pictures are drawn at once, as the original does",
			r.BatchSize, r.Len())
	case r.First < 0:
		return fmt.Errorf("first picture %d: want 0 or more", r.First)
	}
	return nil
}

// NumSteps is the number of sampling steps over all batches, which Progress counts.
func (r Request) NumSteps() (int, error) {
	r.setDefaults()
	plan, err := r.plan()
	if err != nil || r.Len() == 0 {
		return 0, err
	}
	return (r.Len() + r.BatchSize - 1) / r.BatchSize * plan.numSteps(), nil
}

// prepare fills in the defaults and holds the request against a model.
func (r *Request) prepare(cfg dit.Config) error {
	if r.Process == nil {
		r.Process = &dit.Process{}
	}
	r.setDefaults()
	if err := r.Validate(); err != nil {
		return err
	}
	if err := r.checkCondition(cfg); err != nil {
		return err
	}
	if r.Guide != nil {
		if err := checkGuide(cfg, r.Guide.Config()); err != nil {
			return err
		}
	}
	if r.doubled() && cfg.ClassDropoutProb == 0 {
		return fmt.Errorf("guidance scale %v: the model was trained without dropping its condition, so there is "+
			"nothing to steer away from", r.CFGScale)
	}
	return nil
}

// checkCondition holds labels and captions against what the model takes.
func (r *Request) checkCondition(cfg dit.Config) error {
	switch {
	case cfg.HasClass() && len(r.Labels) == 0:
		return fmt.Errorf("sample: no labels")
	case !cfg.HasClass() && len(r.Labels) > 0:
		return fmt.Errorf("sample: class labels for a model of %s", cfg.Conditions())
	case cfg.HasText() && len(r.Captions) == 0:
		return fmt.Errorf("sample: no captions")
	case !cfg.HasText() && len(r.Captions) > 0:
		return fmt.Errorf("sample: captions for a model of %s", cfg.Conditions())
	case cfg.HasClass() && cfg.HasText() && len(r.Labels) != len(r.Captions):
		return fmt.Errorf("sample: %s and %s: want one of each a picture", names.Plural(len(r.Labels), "label"),
			names.Plural(len(r.Captions), "caption"))
	case r.NumSamples != 0 && cfg.Condition != dit.OnNothing:
		return fmt.Errorf("sample: %s, the number is that of labels or captions", names.Plural(r.NumSamples, "picture"))
	case r.Len() < 1:
		return fmt.Errorf("sample: %d pictures: want at least 1", r.Len())
	case !r.doubled() || !cfg.HasText():
	case len(r.Null.States) == 0:
		return fmt.Errorf("guidance scale %v: the states of the empty caption, or of a negative prompt, are missing",
			r.CFGScale)
	}
	for _, y := range r.Labels {
		if y < 0 || y > cfg.NumClasses || y == cfg.NumClasses && cfg.ClassDropoutProb == 0 {
			return fmt.Errorf("class label %d: the model has classes 0 to %d", y, cfg.NumClasses-1)
		}
	}
	captions := r.Captions
	if cfg.HasText() && r.doubled() {
		captions = append(captions[:len(captions):len(captions)], r.Null)
	}
	for _, c := range captions {
		if len(c.States) != cfg.TextLength*cfg.TextWidth || c.Length < 1 || c.Length > cfg.TextLength {
			return fmt.Errorf("caption of %d numbers, %d tokens: the model takes %d tokens of width %d", len(c.States),
				c.Length, cfg.TextLength, cfg.TextWidth)
		}
	}
	return nil
}

// Len is the number of pictures.
func (r Request) Len() int { return max(len(r.Labels), len(r.Captions), r.NumSamples) }

// RandomLabels draws a label below numClasses for each of n pictures. That of picture i depends on i and seed alone.
func RandomLabels(numClasses, n int, seed uint64) []int {
	labels := make([]int, n)
	for i := range labels {
		labels[i] = philox.Intn(numClasses, seed, philox.TagLabel, 0, uint64(i))
	}
	return labels
}

// BalancedLabels gives each of n pictures a label below numClasses, all in turn: of any number of pictures in a row, no
// class has two more than another.
func BalancedLabels(numClasses, n int) []int {
	labels := make([]int, n)
	for i := range labels {
		labels[i] = i % numClasses
	}
	return labels
}
