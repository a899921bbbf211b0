package training

import (
	"fmt"
	"math"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/torch"
)

// healthSteps is how long the checks of a beginning run go on.
const healthSteps = 100

// health looks for the usual faults of a run in its first steps and names them in words.
type health struct {
	labels  map[int64]int   // how many samples had each
	pairs   *labelCheck     // of labels and latents; nil where it could find nothing
	warned  map[string]bool // by kind of warning
	delayed []string        // warnings that wait for the latents to be compared with their checksums
	done    bool
}

// begin warns of what is wrong with the configuration and the set.
func (h *health) begin(r *runner) {
	h.labels, h.warned = map[int64]int{}, map[string]bool{}
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
	if h.warned[key] || r.hooks.Warn == nil {
		return
	}
	h.warned[key] = true
	r.hooks.Warn(fmt.Sprintf(text, args...))
}

// warnOfData is warn for what blames the autoencoder or the data, which damaged latents would make wrong: as long as
// these are being compared with their checksums, it waits.
func (h *health) warnOfData(r *runner, key, text string, args ...any) {
	c := samples.ComparisonOf(r.source)
	if c == nil || !c.UnderWay() {
		h.warn(r, key, text, args...)
	} else if !h.warned[key] && r.hooks.Warn != nil {
		h.warned[key] = true
		h.delayed = append(h.delayed, fmt.Sprintf(text, args...))
	}
}

// flush gives the delayed warnings, if nothing is wrong with the latents.
func (h *health) flush(r *runner) {
	if len(h.delayed) == 0 {
		return
	}
	if c := samples.ComparisonOf(r.source); c.UnderWay() || c.Damage() != nil {
		return
	}
	for _, text := range h.delayed {
		r.hooks.Warn(text)
	}
	h.delayed = nil
}

// countLabels counts those of a batch.
func (h *health) countLabels(r *runner, b samples.Batch) {
	h.flush(r)
	if r.step >= healthSteps {
		return
	}
	for _, label := range b.Labels {
		h.labels[label]++
	}
}

// observe takes the latents of the samples that were sent last.
func (h *health) observe(s *torch.Scope, r *runner, x0 *torch.Tensor) {
	if h.pairs != nil && r.step < healthSteps {
		h.pairs.observe(s, x0, r.intake.feed.Tensor(feedLabels), r.cfg.Model.NumClasses)
	}
}

func (h *health) close() {
	if h.pairs != nil {
		h.pairs.close()
		h.pairs = nil
	}
}

// checkHealth looks at a record of the first steps.
func (r *runner) checkHealth(rec Record) {
	h := &r.checks
	if h.done {
		return
	}
	h.done = rec.Step >= healthSteps
	if std := rec.LatentStd; std > 0 {
		if text := latents.WrongScale(r.set.ScalingFactor, std); text != "" {
			h.warnOfData(r, "scale", "%s (scaling_factor in the autoencoder's config.json)", text)
		}
	}
	if m := math.Abs(rec.LatentMean); m > 1 {
		h.warnOfData(r, "mean", "the latents have a mean of %.3g after scaling, a DiT wants about 0",
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
			h.warnOfData(r, "swapped", "the labels of the first %d samples say nothing about their latents, as if "+
				"they were swapped: the variance between classes is %.3g times that within, by chance it would be "+
				"1; do labels and pictures come in the same order?", n, ratio)
		}
		h.close()
	}
}
