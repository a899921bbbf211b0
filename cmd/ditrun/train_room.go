package main

import (
	"cmp"
	"fmt"
	"path/filepath"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/internal/saves"
)

// checkPlace refuses a place for the run that cannot be written, before data and weights are opened.
func (o *trainOptions) checkPlace() error {
	flag, path := o.place()
	return checkFolder(flag, path)
}

// place is the folder in which the run, or the folder of the run, is to be, and the flag that says so.
func (o *trainOptions) place() (flag, path string) {
	switch {
	case o.runDir != "":
		return "run-dir", o.runDir
	case o.resumesByName():
		return "resume", cmp.Or(runs.Of(o.resume), o.resume) // nothing is written into a checkpoint that is there
	}
	return "results-dir", o.resultsDir
}

// checkSaves compares what the checkpoints of the run take with what is free, and keeps in t.saves what is said of
// that. The run goes on after the step start, 0 for a new one.
func (t *trainJob) checkSaves(point resumePoint, start int) error {
	c := t.options.config
	last := c.Steps(t.set.Samples)
	flag, dir := t.options.place()
	have := 0
	if point.continues {
		dir = cmp.Or(point.dir, dir)
		steps, err := saves.Steps(filepath.Join(dir, runs.CheckpointsName))
		if err != nil {
			return err
		}
		have = len(steps)
	}
	written, more := c.Checkpoints(start, last, have)
	if point.original != "" && !point.continues { // it is kept in our form at once
		written, more = written+1, more+1
	}
	if written == 0 {
		return nil
	}
	each := c.CheckpointBytes()
	w := writing{flag: flag, path: dir, what: plural(more, "checkpoint"), all: int64(more) * each,
		least: each, unit: "a checkpoint takes"}
	if have == 0 && written > 1 { // and so even with --keep-last 1
		w.least = 2 * each
		w.unit = "two checkpoints take"
		if c.KeepLast > 0 {
			w.unit = "a checkpoint and the one before it, which is removed afterwards, take"
		}
	}
	w.short = "--keep-last N keeps the last N only"
	if n := t.free(dir)/each + int64(have) - 1; n >= 1 {
		w.short = fmt.Sprintf("--keep-last %d fits", n)
	}
	free, err := t.checkRoom(w)
	t.saves = t.keeps(written) + free
	return err
}

// keeps says how many checkpoints there will be and what each takes.
func (t *trainJob) keeps(written int) string {
	c := t.options.config
	each := format.Bytes(c.CheckpointBytes())
	switch {
	case written == 1:
		return "one checkpoint of " + each
	case c.KeepLast == 0:
		return fmt.Sprintf("%s checkpoints of %s, all kept", format.Count(int64(written)), each)
	}
	last := "the last one"
	if c.KeepLast > 1 {
		last = fmt.Sprintf("the last %d", c.KeepLast)
	}
	if c.KeepEvery > 0 {
		last += " and one every " + plural(c.KeepEvery, "step")
	}
	return fmt.Sprintf("each %s, %s kept", each, last)
}
