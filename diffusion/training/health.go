package training

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/torch"
)

// healthSteps is how long the checks of a beginning run go on.
const healthSteps = 100

// health looks for the usual faults of a run in its first steps and names them in words.
type health struct {
	labels map[int64]int // how often each was seen
	pairs  *labelCheck   // of labels and latents; nil where there is nothing to tell
	said   map[string]bool
	held   []string // warnings that wait for the latents to be compared with their checksums
	done   bool
}

// before looks at what is known without a step.
func (h *health) before(r *runner) {
	h.labels, h.said = map[int64]int{}, map[string]bool{}
	if r.hooks.Warn != nil && r.cfg.Model.HasClass() && len(r.set.Classes) > 1 && r.step < healthSteps {
		h.pairs = &labelCheck{}
	}
	if r.cfg.Model.ClassDropoutProb == 0 && r.cfg.Model.NumClasses > 1 {
		h.warn(r, "null class", "the null class is missing: no labels are dropped, so the model cannot be guided "+
			"(--cfg-scale above 1); --class-dropout-prob 0.1 is the paper's")
	}
	if len(r.set.Classes) == 1 && r.cfg.Model.NumClasses > 1 {
		h.warn(r, "one class", "all samples are of one class, %q, and the model has %d", r.set.Classes[0],
			r.cfg.Model.NumClasses)
	}
}

func (h *health) warn(r *runner, key, text string, args ...any) {
	if h.said[key] || r.hooks.Warn == nil {
		return
	}
	h.said[key] = true
	r.hooks.Warn(fmt.Sprintf(text, args...))
}

// warnOfData is warn for what blames the autoencoder or the data, which damaged latents would make wrong: as long as
// these are being compared with their checksums, it waits.
func (h *health) warnOfData(r *runner, key, text string, args ...any) {
	c := r.comparison()
	if c == nil || !c.underWay() {
		h.warn(r, key, text, args...)
	} else if !h.said[key] && r.hooks.Warn != nil {
		h.said[key] = true
		h.held = append(h.held, fmt.Sprintf(text, args...))
	}
}

// flush warns of what was held back, if nothing is wrong with the latents.
func (h *health) flush(r *runner) {
	if len(h.held) == 0 {
		return
	}
	if c := r.comparison(); c.underWay() || c.damage() != nil {
		return
	}
	for _, text := range h.held {
		r.hooks.Warn(text)
	}
	h.held = nil
}

// saw counts the labels of a batch.
func (h *health) saw(r *runner, b Batch) {
	h.flush(r)
	if r.step >= healthSteps {
		return
	}
	for _, label := range b.Labels {
		h.labels[label]++
	}
}

// sawLatents looks at what the labels of a batch came with.
func (h *health) sawLatents(s *torch.Scope, r *runner, x0 *torch.Tensor, labels []int64) {
	if h.pairs != nil && r.step < healthSteps {
		h.pairs.add(s, x0, labels, r.cfg.Model.NumClasses)
	}
}

func (h *health) close() {
	if h.pairs != nil {
		h.pairs.close()
		h.pairs = nil
	}
}

// health looks at a record of the first steps.
func (r *runner) health(rec Record) {
	h := &r.checks
	if h.done {
		return
	}
	h.done = rec.Step >= healthSteps
	if std := rec.LatentStd; std > 0 && (std < 0.5 || std > 2) {
		h.warnOfData(r, "scale", "the latents have a standard deviation of %.3g after scaling by %g, where "+
			"diffusion wants about 1: the scale of another VAE? this set wants %.4g (scaling_factor in the VAE's "+
			"config.json)",
			std, r.set.ScalingFactor, r.set.ScalingFactor/std)
	}
	if m := math.Abs(rec.LatentMean); m > 1 {
		h.warnOfData(r, "mean", "the latents have a mean of %.3g after scaling, where diffusion wants about 0",
			rec.LatentMean)
	}
	if r.cfg.Model.HasClass() && len(h.labels) == 1 && len(r.set.Classes) > 1 && rec.Step*r.cfg.GlobalBatchSize >= 32 {
		for label := range h.labels {
			h.warn(r, "one label", "all samples so far are of class %d, %q, of %d: are the labels right?", label,
				r.set.Classes[label], len(r.set.Classes))
		}
	}
	if h.pairs != nil && (h.done || rec.Step == r.total) {
		if n, ratio, chance := h.pairs.chance(); chance {
			h.warnOfData(r, "swapped", "the labels of the first %d samples tell nothing of their latents, as if "+
				"they were swapped: the variance between classes is %.3g times that within, by chance it would be "+
				"1; do labels and pictures come in the same order?", n, ratio)
		}
		h.close()
	}
}
