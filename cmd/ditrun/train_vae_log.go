package main

import (
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/training"
)

// vaeAccount prints how train-vae gets on.
type vaeAccount struct {
	*env
	options  *trainVAEOptions
	began    time.Time
	before   int // steps that were done before
	training *progress.Bar
	part     *progress.Bar // of the work after the last step
}

func newVAEAccount(e *env, o *trainVAEOptions) *vaeAccount {
	a := &vaeAccount{env: e, options: o, began: time.Now()}
	if o.train.Resume != nil {
		a.before = o.train.Resume.Step
	}
	a.training = e.progressBetweenLines("train-vae", "steps", int64(o.train.Config.MaxSteps))
	a.training.Start(int64(a.before))
	return a
}

func (a *vaeAccount) showStep(s vae.Step) {
	a.training.Set(int64(s.Step))
	if s.Losses == nil {
		return
	}
	rate := float64(s.Step-a.before) / time.Since(a.began).Seconds()
	left, _ := a.training.Left()
	line := vaeLine(s, " ("+inWords(a.options.train.Config.Loss, s.Losses.Rec)+")", rate, left)
	if len(line) > format.LineWidth {
		line = vaeLine(s, "", rate, left)
	}
	a.printf("%s", line)
}

// vaeLine is the line of a log step, at most 80 columns wide without words for the reconstruction loss. Left is 0 where
// it is not known.
func vaeLine(s vae.Step, words string, stepsPerSecond float64, left time.Duration) string {
	line := fmt.Sprintf("(step=%07d) Reconstruction: %.5f%s, KL: %.2f, %s steps/s", s.Step, s.Losses.Rec, words,
		s.Losses.KL, format.Rate(stepsPerSecond))
	if left > 0 {
		line += ", ETA " + format.Estimate(left)
	}
	return line
}

// inWords is a reconstruction loss, whose pixels are from -1 to 1, as people know errors: in dB, or in gray levels.
func inWords(loss string, rec float64) string {
	if loss == "l1" {
		return fmt.Sprintf("%.1f of 255 levels", rec*255/2)
	}
	return fmt.Sprintf("%.1f dB", min(training.MaxPSNR, 10*math.Log10(4/rec)))
}

func (a *vaeAccount) showMeasuring(done, total int) {
	if done == 0 {
		a.training.Finish()
	}
	a.showCounted("measure latents", done, total, "writing the model")
}

func (a *vaeAccount) showComparing(done, total int) {
	a.showCounted("compare reconstructions", done, total, "drawing reconstructions")
}

// showCounted shows a part of the work after the last step, and then, where it takes long, the one behind it.
func (a *vaeAccount) showCounted(title string, done, total int, next string) {
	if done == 0 {
		a.part = a.progress(title, "pictures", int64(total))
	}
	a.part.Set(int64(done))
	if done == total {
		a.part.Finish()
		a.waiting(next) // until another part begins or the command ends
	}
}

// summarize says where the model is and how good it is.
func (a *vaeAccount) summarize(r training.Result) {
	out := a.options.train.OutDir
	a.printf("latents have a standard deviation of %.4f: scaling_factor %.4f", r.LatentStd, 1/r.LatentStd)
	if q := r.Quality; q.Pictures > 0 {
		quality := fmt.Sprintf("reconstructions are %v: %s", q, q.Verdict())
		if q.TooSoft() {
			quality += ": give more --max-steps, or take Stable Diffusion's autoencoder (--vae sd-vae-ft-ema)"
		}
		a.item("quality", quality)
	}
	a.printf("written to %s", out)
	if r.Reconstructions > 0 {
		a.printf("%s shows how pictures come back", filepath.Join(out, training.ReconstructionsName))
	}
}
