package sampling

import (
	"fmt"

	"github.com/ditrun/ditrun/diffusion"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// guided says whether any step is guided, doubled whether that takes the model a second condition for each picture.
func (r *Request) guided() bool  { return r.CFGScale != 1 }
func (r *Request) doubled() bool { return r.guided() && r.Guide == nil }

func (r *Request) guidance() dit.Guidance {
	return dit.Guidance{Scale: r.CFGScale, Channels: r.Guided, Rescale: r.GuidanceRescale}
}

// validateGuidance returns an error for guidance that is impossible or that nothing would come of.
func (r *Request) validateGuidance() error {
	switch {
	case !(r.GuidanceRescale >= 0 && r.GuidanceRescale <= 1): // NaN too
		return fmt.Errorf("guidance-rescale %v: want 0 (none) to 1", r.GuidanceRescale)
	case r.GuidanceRescale != 0 && !r.guided():
		return fmt.Errorf("guidance-rescale %v: has no effect without guidance, cfg-scale 1", r.GuidanceRescale)
	case r.Guide != nil && !r.guided():
		return fmt.Errorf("guide-ckpt: has no effect without guidance, cfg-scale 1")
	}
	return nil
}

// checkGuide holds the model that guidance leads away from against the one that draws.
func checkGuide(cfg, guide dit.Config) error {
	size := func(c dit.Config) [3]int { return [3]int{c.InChannels, c.InputSize, c.Width()} }
	switch {
	case size(guide) != size(cfg):
		return fmt.Errorf("the guide is a model of latents of %dx%dx%d, want %dx%dx%d", guide.InChannels,
			guide.InputSize, guide.Width(), cfg.InChannels, cfg.InputSize, cfg.Width())
	case guide.Condition == dit.OnNothing: // as an unconditional one guides in EDM2
		return nil
	case guide.Condition != cfg.Condition:
		return fmt.Errorf("the guide is a model of %s, want one of %s", guide.Conditions(), cfg.Conditions())
	case cfg.HasClass() && guide.NumClasses != cfg.NumClasses:
		return fmt.Errorf("the guide is a model of %d classes, want %d", guide.NumClasses, cfg.NumClasses)
	case cfg.HasText() && (guide.TextLength != cfg.TextLength || guide.TextWidth != cfg.TextWidth):
		return fmt.Errorf("the guide is a model of captions of %d tokens of width %d, want %d of %d",
			guide.TextLength, guide.TextWidth, cfg.TextLength, cfg.TextWidth)
	}
	return nil
}

// openGuide reads the model that guidance leads away from, which has to do the same as the pipeline's.
func (p *Pipeline) openGuide(path string) error {
	w, err := dit.Read(path, "")
	if err != nil {
		return fmt.Errorf("guide: %w", err)
	}
	defer w.Close()
	if !w.Process.AnswersLike(p.info.Process) {
		return fmt.Errorf("guide %s predicts %s, the model %s", path, w.Process, p.info.Process)
	}
	if err := checkGuide(p.info.Config, w.Config); err != nil {
		return err
	}
	err = torch.Run(p.dev, func(s *torch.Scope) (err error) {
		p.guide, err = w.Load(s)
		return err
	})
	if err != nil {
		return fmt.Errorf("guide: %w", err)
	}
	p.guideFound, p.guidePath, p.guideWeights = w.String(), w.Path, w.SignedSHA256()
	return nil
}

// Guide is the model that guidance leads away from, nil without one, and what its checkpoint is in one line.
func (p *Pipeline) Guide() (guide *dit.DiT, found string) { return p.guide, p.guideFound }

// answer is that of the model in the next step, under guidance where that is guided.
func (v *series) answer(s *torch.Scope, x, t *torch.Tensor, cond dit.Condition) *torch.Tensor {
	switch {
	case !v.guide:
		return v.model.Forward(s, x, t, cond)
	case v.Guide == nil:
		return v.model.ForwardWithCFG(s, x, t, cond, v.guidance())
	}
	strong, weak := v.model.Forward(s, x, t, cond), v.Guide.Forward(s, x, t, v.guideCondition(s, cond))
	return v.guidance().Mix(s, strong, weak, v.model.Config().InChannels)
}

// guideCondition is what the guide is asked under where the model is asked under cond.
func (v *series) guideCondition(s *torch.Scope, cond dit.Condition) (c dit.Condition) {
	cfg := v.Guide.Config()
	if cfg.HasText() {
		c.Tokens, c.Lengths = cond.Tokens, cond.Lengths
	}
	if cfg.HasClass() {
		c.Labels = s.Clamp(v.guideLabels, 0, float64(cfg.NumClasses)) // they are, but the device cannot know
	}
	return c
}

// carriesBoth says whether a run is SiT's with dopri5, whose batch under guidance holds each picture twice. Both halves
// begin alike, and are asked about as the first one is, but channels that are not guided go their own way, and the
// errors of all count.
func (v *series) carriesBoth() bool {
	return v.RNG == rngTorch && v.doubled() && !v.process().NoiseAtOne
}

// both is the denoiser of such a batch [2N, C, I, J] (forward_with_cfg of SiT).
func (v *series) both() diffusion.Denoiser {
	c, g := v.model.Config().InChannels, v.guidance()
	return func(s *torch.Scope, x, t *torch.Tensor) *torch.Tensor {
		half := s.Narrow(x, 0, 0, v.n)
		out := v.model.Forward(s, s.Cat([]*torch.Tensor{half, half}, 0), t, v.condition(s, 0))
		wanted, away := s.Narrow(s.Narrow(out, 0, 0, v.n), 1, 0, c), s.Narrow(s.Narrow(out, 0, v.n, v.n), 1, 0, c)
		first := g.Mix(s, wanted, away, c)
		if g.Channels == dit.GuideAll || int(g.Channels) >= c {
			return s.Cat([]*torch.Tensor{first, first}, 0)
		}
		k := int(g.Channels)
		second := s.Cat([]*torch.Tensor{s.Narrow(first, 1, 0, k), s.Narrow(away, 1, k, c-k)}, 1)
		return s.Cat([]*torch.Tensor{first, second}, 0)
	}
}
