package training

import (
	"cmp"
	"errors"

	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
)

// ErrNoCaptions is the error of a model of text on a set without captions.
var ErrNoCaptions = errors.New("the set has no captions")

// ConfigFor returns [DefaultConfig] for a model of this name, as [dit.Named] takes it, on this set: see [FitModel] for
// the model. Where the set has no mirrored views none are asked for. For a run that is shorter than the paper's set
// MaxSteps, and EMADecay to what the function [EMADecay] returns for them.
func ConfigFor(model string, set samples.Set) (Config, error) {
	c := DefaultConfig
	m, err := dit.Named(model)
	if err != nil {
		return c, err
	}
	if c.Model, err = FitModel(m, set, 0); err != nil {
		return c, err
	}
	c.ImageSize, c.Orientation = set.ImageSize, set.Orientation
	if !set.Flip {
		c.FlipProb = 0
	}
	return c, nil
}

// FitModel gives m the input and the condition of set: the size and channels of its latents, numClasses classes (0:
// those of the set), the length and width of its captions.
func FitModel(m dit.Config, set samples.Set, numClasses int) (dit.Config, error) {
	m.SetInput(set.Height, set.Width)
	m.InChannels = set.Channels
	var text tokens.EncoderInfo
	if m.HasText() {
		if set.Text == nil {
			return m, ErrNoCaptions
		}
		text = set.Text.Encoder
	}
	m.SetCondition(m.Condition, cmp.Or(numClasses, len(set.Classes)), text.Width, text.Length)
	return m, nil
}
