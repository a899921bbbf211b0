package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/report"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
)

// A runStart is the folder of a run and the checkpoint that it goes on from. Rank 0 decides it for all.
type runStart struct {
	Dir        string
	Checkpoint string // "" to begin
	EMADecay   float64
	Products   []string // torch.ProductChoices of the run
	Error      string   // why the run cannot begin

	folder *report.Run // on rank 0
	last   runs.Step   // the last record of what was trained before
}

// openRun makes the run folder on rank 0, or opens the one to continue, and tells the other processes.
func (t *trainJob) openRun() (runStart, error) {
	if t.group.Rank() > 0 {
		return awaitRun(t.ctx, t.group)
	}
	start, err := t.openFolder()
	if err != nil {
		start.Error = err.Error()
	}
	if t.group.World() > 1 {
		if tellErr := tell(t.group, "run folder", start); err == nil {
			err = tellErr
		}
	}
	return start, err
}

// folderTimeout is for rank 0 to compare the checksums of a large checkpoint.
const folderTimeout = 30 * time.Minute

func awaitRun(ctx context.Context, group *dist.Group) (start runStart, err error) {
	ctx, cancel := context.WithTimeout(ctx, folderTimeout)
	defer cancel()
	if err := hear(ctx, group, "run folder", &start); err != nil {
		return start, err
	}
	if start.Error != "" {
		return start, errors.New("rank 0: " + start.Error)
	}
	return start, nil
}

// openFolder makes the run folder, or opens the one to continue. Nothing in a folder changes before it is known
// that the run can go on.
func (t *trainJob) openFolder() (start runStart, err error) {
	point := t.resume
	if t.resumeErr != nil {
		return start, t.resumeErr
	}
	start.Checkpoint = point.checkpoint
	if point.checkpoint == "" && t.weightsErr != nil { // which does not concern a run that goes on
		return start, t.weightsErr
	}
	t.chooseAverage(point)
	start.EMADecay = t.config.EMADecay
	step, err := t.checkResume(point.checkpoint)
	if err != nil {
		return start, err
	}
	if err := t.checkSaves(point, step); err != nil {
		return start, err
	}
	hash, err := t.hash()
	if err != nil {
		return start, err
	}
	config, err := configNode(t.flags, "resume", "run-dir")
	if err == nil {
		err = makeAbsolute(config, pathFlags...)
	}
	if err != nil {
		return start, err
	}
	o := runs.Options{ResultsDir: t.options.resultsDir, Dir: t.options.runDir, Model: t.options.config.Model.Name(),
		Config: config, ConfigHash: hash, Derived: t.derived, Command: os.Args, Libtorch: torch.BuildInfo(),
		Device: describeDevice(t.dev), From: point.original}
	if o.Attention, err = t.config.Model.AttentionBackend(t.dev, t.config.Precision.DType()); err != nil {
		t.warn("%v: run.json will not name the kernels of attention", err)
	}
	console := func(line string) { t.printf("%s", line) }
	if point.continues {
		if start.folder, err = report.Resume(point.dir, step, o, console); err == nil {
			start.Products = start.folder.Info().Products
		}
	} else if start.folder, err = report.Create(o, console); err == nil && o.From != "" {
		start.folder.Printf("Began at step %07d from %s", step, o.From)
	}
	if err != nil {
		return start, err
	}
	start.Dir = start.folder.Dir()
	if past := start.folder.Past(); len(past) > 0 {
		start.last = past[len(past)-1]
	}
	return start, nil
}

// checkResume returns the step after which a run goes on from a checkpoint, "" for none, and says in what it differs
// from the one before.
func (t *trainJob) checkResume(path string) (step int, err error) {
	cfg := t.options.config
	step, err = training.Check(cfg, t.set, t.group.World(), path)
	if none := (*dit.NoTrainingError)(nil); errors.As(err, &none) {
		from := "--init-from " + path
		if p := none.Process; p.IsFlow() {
			from += fmt.Sprintf(" --objective %s --path %s", p.Objective, p.Path)
		}
		hint := from + " begins a new run with its weights"
		if dir := filepath.Dir(path); exists(filepath.Join(dir, saves.StateName)) {
			hint = fmt.Sprintf("--resume %s continues its run; %s", dir, hint)
		}
		return 0, withHint(err, "%s", hint)
	}
	if err != nil || path == "" {
		return step, err
	}
	if isOriginal(path) {
		notes, err := training.OriginalNotes(path, cfg, t.set)
		if err != nil {
			return 0, err
		}
		for _, note := range notes {
			t.warn("%s", note)
		}
	}
	changes, err := training.ChangesSince(path, cfg, t.set)
	if len(changes) > 0 {
		t.warn("the run goes on with other settings than it had: %s", strings.Join(changes, "; "))
	}
	return step, err
}
