package main

import (
	"fmt"
	"image"
	"strings"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/report"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
)

// A trainLog turns what the training loop reports into logs, bar and pictures.
type trainLog struct {
	env     *env
	dev     torch.Device
	folder  *report.Run
	preview *previewer
	bar     *progress.Bar
	endWait func()        // called when the first step is to come
	before  time.Duration // trained before this process
	plotted time.Time
	last    runs.Step
	peak    float64         // TFLOP/s of all devices together, 0 where it is not known
	failing map[string]bool // what could not be written when it was last tried
}

// hooks are what the loop reports to. Processes of rank above 0 report to nobody.
func (l *trainLog) hooks() training.Hooks {
	return training.Hooks{Start: l.start, Step: l.step, Log: l.log, Preview: l.sample, Saving: l.saving, Saved: l.saved,
		Warn: l.warn, BadStep: l.badStep, Rollback: l.rollback, Dir: l.checkpointDir}
}

// memory returns what logs say about it: the peak of tensors on a GPU beside what the process takes of the host's, or
// the latter alone.
func memory(dev torch.Device, peak int64) (bytes, host int64) {
	if dev.IsCUDA() {
		return peak, machine.Resident()
	}
	return machine.Resident(), 0
}

// plotInterval keeps the redrawing of the loss curve a small share of a run.
const plotInterval = 20 * time.Second

// attempt takes the error of writing what only shows the run: the run goes on, and the next attempt tries again. It
// is told when that begins and when it ends.
func (l *trainLog) attempt(what string, err error) {
	if (err != nil) == l.failing[what] {
		return
	}
	l.failing[what] = err != nil
	if err == nil {
		l.note("Warning: %s can be written again", what)
		return
	}
	l.note("Warning: %v: the run goes on, and tries again", err)
}

// checkpointDir follows the run folder and says where checkpoints go.
func (l *trainLog) checkpointDir() string {
	news, err := l.folder.Follow()
	if news != "" {
		l.note("Warning: %s", news)
	}
	l.attempt("the run folder", err)
	return l.folder.Checkpoints()
}

func (l *trainLog) start(numParams, first, total int) {
	l.endWait()
	l.folder.Printf("DiT Parameters: %s", format.Count(int64(numParams)))
	switch {
	case first > 0 && first >= total:
		l.folder.Printf("Done already, after %s; a larger --max-steps goes on", plural(total, "step"))
	case first > 0:
		l.folder.Printf("Continuing from step %s", format.Count(int64(first)))
	}
	l.bar = l.env.progressBetweenLines("train", "steps", int64(total))
	l.bar.Start(int64(first))
	l.plotted = time.Now()
}

func (l *trainLog) step(step int) { l.bar.Set(int64(step)) }

func (l *trainLog) log(r training.Record) {
	perSecond := func(v float64) runs.Number { return runs.Number(v / r.Seconds) }
	l.last = runs.Step{
		Step: r.Step, Epoch: r.Epoch, Loss: runs.Number(r.Loss), MSE: runs.Number(r.MSE), VB: runs.Number(r.VB),
		GradNorm:   runs.Number(r.GradNorm),
		UpdateNorm: runs.Number(r.UpdateNorm), Skipped: r.Skipped, SavingShare: perSecond(r.SavingSeconds),
		LoggingShare: perSecond(r.LoggingSeconds),
		LR:           runs.Number(r.LR), StepsPerSecond: perSecond(float64(r.Steps)),
		ImagesPerSecond: perSecond(float64(r.Samples)),
		TFLOPS:          perSecond(r.FLOPs / 1e12),
		DataWaitShare:   perSecond(r.DataWaitSeconds),
		Seconds:         runs.Number(l.before.Seconds() + r.SecondsSinceStart),
	}
	l.last.MemoryBytes, l.last.HostMemoryBytes = memory(l.dev, l.dev.PeakMemory())
	for _, v := range r.Bins {
		l.last.Bins = append(l.last.Bins, runs.Number(v))
	}
	if l.peak > 0 {
		l.last.MFU = l.last.TFLOPS / runs.Number(l.peak)
	}
	l.describe()
	l.checkpointDir()
	l.attempt("the log", l.folder.Log(l.last))
	l.attempt("run.json", l.keepProducts())
	left, _ := l.bar.Left()
	l.env.printf("%s", report.ShortLine(l.last, left)) // whoever reads it finds the records written
	if time.Since(l.plotted) >= plotInterval {
		l.plot()
	}
}

// keepProducts writes how products are computed to run.json, for a process that continues the run. Processes of a
// group choose nothing.
func (l *trainLog) keepProducts() error {
	lines, err := torch.ProductChoices()
	if err != nil || len(lines) == 0 {
		return err
	}
	return l.folder.SetProducts(lines)
}

func (l *trainLog) plot() {
	l.plotted = time.Now()
	l.attempt("the loss curve", l.folder.PlotLoss())
}

func (l *trainLog) sample(s *torch.Scope, ema *dit.DiT, step int) {
	bar := progress.BetweenLines(l.env.stderr, "preview", "steps", int64(l.preview.numSteps()), l.env.quiet)
	done := l.env.showPart(bar)
	var img image.Image
	err := s.Try(func(s *torch.Scope) (err error) {
		img, err = l.preview.draw(l.env.ctx, s, ema, step, func(k int) { bar.Set(int64(k)) }, l.warn)
		return err
	})
	done()
	switch {
	case l.env.ctx.Err() != nil: // cut short: the run is to stop
	case err != nil: // early averages can give none
		l.folder.Printf("No preview of step %d: %v", step, err)
	default:
		path, err := l.folder.Preview(step, img)
		l.attempt("the preview", err)
		if err == nil {
			l.folder.Printf("Saved preview to %s", path)
		}
	}
}

func (l *trainLog) saving() { l.bar.Describe("writing a checkpoint") }

// describe shows the last loss beside the bar.
func (l *trainLog) describe() {
	if l.last.Step > 0 {
		l.bar.Describe(fmt.Sprintf("loss %.4f", float64(l.last.Loss)))
	}
}

func (l *trainLog) saved(path string, step int) {
	l.describe()
	l.attempt("run.json", l.keepProducts())
	l.folder.Printf("Saved checkpoint to %s", path)
}

func (l *trainLog) warn(text string) { l.note("Warning: %s", text) }

// note goes to log.txt and, as a warning, to the user.
func (l *trainLog) note(format string, args ...any) {
	l.folder.Note(format, args...)
	l.env.warn("%s", strings.TrimPrefix(fmt.Sprintf(format, args...), "Warning: "))
}

func (l *trainLog) badStep(b training.BadStep) {
	l.note("Warning: %s not applied; step %d: %s", plural(b.Count, "step"), b.Step, b.Why)
}

// rollback makes the logs those of the step to which the run went back.
func (l *trainLog) rollback(step int) {
	l.bar.Set(int64(step))
	l.attempt("the log", l.folder.Rollback(step))
}
