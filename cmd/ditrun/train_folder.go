package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/report"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/dist"
)

// A place is where a run is written and what it goes on from. Rank 0 decides it for all.
type place struct {
	Dir    string // the run folder
	Resume string // a checkpoint, "" to begin
	Error  string // why there is none

	folder *report.Run // on rank 0
	last   runs.Step   // the last record of what was trained before
}

// openPlace finds or makes the run folder on rank 0 and tells the other processes.
func (e *env) openPlace(t *trainInput, group *dist.Group, noStart error) (place, error) {
	if group.Rank() > 0 {
		return awaitPlace(e.ctx, group)
	}
	p, err := e.findPlace(t, group.World(), noStart)
	if err != nil {
		p.Error = err.Error()
	}
	if group.World() > 1 {
		if tellErr := tell(group, "run folder", p); err == nil {
			err = tellErr
		}
	}
	return p, err
}

// placeTimeout is for rank 0 to compare the checksums of a large checkpoint.
const placeTimeout = 30 * time.Minute

func awaitPlace(ctx context.Context, group *dist.Group) (p place, err error) {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	if err := hear(ctx, group, "run folder", &p); err != nil {
		return p, err
	}
	if p.Error != "" {
		return p, errors.New("rank 0: " + p.Error)
	}
	return p, nil
}

// findPlace makes the run folder, or opens the one to continue. Nothing in a folder changes before it is known that
// the run can go on. noStart says why a new run cannot begin, which does not concern one that goes on.
func (e *env) findPlace(t *trainInput, world int, noStart error) (p place, err error) {
	c := e.flags
	hash, err := configHash(c, notOfTheRun...)
	if err != nil {
		return p, err
	}
	node, err := configNode(c, "resume", "run-dir")
	if err != nil {
		return p, err
	}
	o := runs.Options{ResultsDir: c.String("results-dir"), Dir: c.String("run-dir"), Model: t.config.Model.Name(),
		Config: node, ConfigHash: hash,
		Command: os.Args, Libtorch: torch.BuildInfo(), Device: describeDevice(t.device)}
	console := func(line string) { e.printf("%s", line) }
	dir := o.Dir
	goOn := false
	switch c.String("resume") {
	case "none":
		if err := mustBeNew(dir); err != nil {
			return p, err
		}
	case "auto":
		if dir == "" {
			if dir, err = runs.Latest(o.ResultsDir, hash); err != nil {
				return p, err
			}
		}
		if dir != "" && runs.Is(dir) {
			goOn = true
			if p.Resume, err = e.lastOf(dir); err != nil {
				return p, err
			}
		}
	default:
		if path := c.String("resume"); isOriginal(path) {
			if o.From, err = filepath.Abs(path); err != nil { // it is kept, for commands given elsewhere
				return p, err
			}
			if goOn = dir != "" && beganFrom(dir) == o.From; goOn { // the same command continues, as after a restart
				p.Resume, err = e.lastOf(dir)
			} else {
				p.Resume, err = o.From, mustBeNew(dir)
			}
			if err != nil {
				return p, err
			}
			break
		}
		goOn = true
		if p.Resume, err = e.checkpointOf(c.String("resume")); err != nil {
			return p, err
		}
		if dir == "" {
			if dir, err = runFolderOf(p.Resume); err != nil {
				return p, err
			}
		}
	}
	if p.Resume == "" && noStart != nil {
		return p, noStart
	}
	step, err := training.Check(t.config, t.set, world, p.Resume)
	if err == nil && p.Resume != "" {
		err = e.warnOfChanges(t, p.Resume)
	}
	if training.IsNoTraining(err) {
		hint := fmt.Sprintf("--init-from %s begins a new run with its weights", p.Resume)
		if dir := filepath.Dir(p.Resume); exists(filepath.Join(dir, checkpoint.StateName)) {
			hint = fmt.Sprintf("--resume %s continues its run; %s", dir, hint)
		}
		return p, withHint(err, "%s", hint)
	}
	if err != nil {
		return p, err
	}
	if !goOn {
		if p.folder, err = report.Create(o, console); err == nil && o.From != "" {
			p.folder.Printf("Began at step %07d from %s", step, o.From)
		}
	} else {
		p.folder, err = report.Resume(dir, step, o, console)
	}
	if err != nil {
		return p, err
	}
	p.Dir = p.folder.Dir()
	if past := p.folder.Past(); len(past) > 0 {
		p.last = past[len(past)-1]
	}
	return p, nil
}

// lastOf finds the newest whole checkpoint of the run in dir, or the file that it began from; "" if there is neither.
func (e *env) lastOf(dir string) (string, error) {
	path, err := e.newestCheckpoint(filepath.Join(dir, "checkpoints"))
	if err == nil && path == "" {
		path = beganFrom(dir)
	}
	return path, err
}

// beganFrom is the checkpoint of another program that the run in dir began from, "" for none.
func beganFrom(dir string) string {
	info, err := runs.ReadInfo(dir)
	if err != nil {
		return ""
	}
	return info.From
}

// mustBeNew refuses to begin a run in the folder of another; dir is "" where a new one is made.
func mustBeNew(dir string) error {
	if dir != "" && runs.Is(dir) {
		return withHint(fmt.Errorf("run folder %s holds a run", dir), "--resume auto continues it")
	}
	return nil
}

// isOriginal says whether path is a file of another program to go on from. A file called latest stands for the link, on
// file systems without links.
func isOriginal(path string) bool {
	return training.IsOriginal(path) && filepath.Base(path) != checkpoint.LatestName
}

// warnOfChanges says in what a run that goes on differs from the one that was.
func (e *env) warnOfChanges(t *trainInput, checkpoint string) error {
	if isOriginal(checkpoint) {
		notes, err := training.OriginalNotes(checkpoint, t.config, t.set)
		if err != nil {
			return err
		}
		for _, note := range notes {
			e.warn("%s", note)
		}
	}
	changes, err := training.ChangesSince(checkpoint, t.config, t.set)
	if len(changes) > 0 {
		e.warn("the run goes on with other settings than it had: %s", strings.Join(changes, "; "))
	}
	return err
}

// checkpointOf returns the checkpoint that a path names: of a run folder, or by the name latest, the one that the link
// refers to or, where there is no such link, the newest that is whole.
func (e *env) checkpointOf(path string) (string, error) {
	dir := filepath.Join(path, "checkpoints")
	if filepath.Base(path) == checkpoint.LatestName {
		dir = filepath.Dir(path)
	}
	at, note, err := checkpoint.Latest(dir)
	switch {
	case err != nil: // whoever reads it says what is wrong with it
		return path, nil
	case note == "":
		return at, nil
	}
	e.warn("%s", note)
	return e.newestCheckpoint(dir)
}

// newestCheckpoint finds the newest whole checkpoint, "" if there is none, and says what is wrong with newer ones.
// That all are damaged is an error: beginning again is for the user to decide.
func (e *env) newestCheckpoint(dir string) (string, error) {
	path, damaged, err := training.Newest(dir)
	if err != nil {
		return "", err
	}
	for _, problem := range damaged {
		e.warn("%v", problem)
	}
	switch {
	case len(damaged) > 0 && path == "":
		return "", withHint(fmt.Errorf("no checkpoint in %s is whole", dir), "another --run-dir begins a new run")
	case len(damaged) > 0:
		e.warn("the run goes on from %s, the newest checkpoint that is whole", path)
	}
	return path, nil
}

// runFolderOf returns the run folder that a checkpoint folder belongs to.
func runFolderOf(checkpoint string) (string, error) {
	abs, err := filepath.Abs(checkpoint)
	if err != nil {
		return "", err
	}
	if dir := filepath.Dir(filepath.Dir(abs)); filepath.Base(filepath.Dir(abs)) == "checkpoints" && runs.Is(dir) {
		return dir, nil
	}
	return "", fmt.Errorf("resume from %s: want a checkpoint in a run folder, such as "+
		"results/000-DiT-XL-2/checkpoints/latest", checkpoint)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) // below a file
}
