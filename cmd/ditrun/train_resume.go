package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/internal/saves"
)

// A resumePoint is where a run begins: with new weights, or after a checkpoint.
type resumePoint struct {
	dir        string // the run folder, which may not exist yet; "" for a new one in --results-dir
	continues  bool   // dir holds the run
	checkpoint string // "" for new weights
	original   string // the file of another program from which the run begins or began, absolute
	warnings   []string
}

// resumePoint finds out what --resume means. Hash is that of the configuration, and same says whether the
// config.yaml in a folder is equal to it.
func (o *trainOptions) resumePoint(hash string, same func(dir string, config []byte) bool) (p resumePoint, err error) {
	p.dir = o.runDir
	switch {
	case o.resume == "none":
		return p, mustBeNew(p.dir)
	case o.resume == "auto":
		if p.dir == "" {
			if p.dir, err = runs.Latest(o.resultsDir, hash, same); err != nil {
				return p, err
			}
		}
		if p.dir != "" && runs.Is(p.dir) {
			err = p.continueRun()
		}
		return p, err
	case isOriginal(o.resume):
		if p.original, err = filepath.Abs(o.resume); err != nil { // it is kept, for commands given elsewhere
			return p, err
		}
		if p.dir != "" && originalOf(p.dir) == p.original { // the same command again, as after a restart, continues
			return p, p.continueRun()
		}
		p.checkpoint = p.original
		return p, mustBeNew(p.dir)
	}
	if runs.Is(o.resume) {
		if steps, err := saves.Steps(filepath.Join(o.resume, runs.CheckpointsName)); err == nil && len(steps) == 0 {
			return p, withHint(fmt.Errorf("--resume %s: the run has no checkpoint yet", o.resume),
				"its command with --run-dir %s --resume auto begins it again", o.resume)
		}
	}
	p.continues = true
	if err := p.continueFrom(o.resume); err != nil {
		return p, err
	}
	if p.dir == "" {
		p.dir, err = runFolderOf(p.checkpoint)
	}
	return p, err
}

// continueRun goes on from the newest whole checkpoint of the run in p.dir, or from the file that it began from.
func (p *resumePoint) continueRun() error {
	p.continues = true
	if err := p.newest(filepath.Join(p.dir, runs.CheckpointsName)); err != nil {
		return err
	}
	if p.checkpoint == "" {
		p.checkpoint = originalOf(p.dir)
	}
	return nil
}

// continueFrom goes on from the checkpoint that a path names: of a run folder, or by the name latest, the one that the
// link refers to or, where there is no such link, the newest that is whole.
func (p *resumePoint) continueFrom(path string) error {
	dir := filepath.Join(path, runs.CheckpointsName)
	if filepath.Base(path) == saves.LatestName {
		dir = filepath.Dir(path)
	}
	latest, note, err := saves.Latest(dir)
	switch {
	case err != nil: // whoever reads it says what is wrong with it
		p.checkpoint = path
	case note == "":
		p.checkpoint = latest
	default:
		p.warnings = append(p.warnings, note)
		return p.newest(dir)
	}
	return nil
}

// newest goes on from the newest whole checkpoint in dir, from none if there is none. That all are damaged is an error:
// beginning again is for the user to decide.
func (p *resumePoint) newest(dir string) error {
	path, damaged, err := training.Newest(dir)
	if err != nil {
		return err
	}
	for _, problem := range damaged {
		p.warnings = append(p.warnings, problem.Error())
	}
	switch {
	case len(damaged) > 0 && path == "":
		return withHint(fmt.Errorf("no checkpoint in %s is whole", dir), "another --run-dir begins a new run")
	case len(damaged) > 0:
		p.warnings = append(p.warnings,
			fmt.Sprintf("the run goes on from %s, the newest checkpoint that is whole", path))
	}
	p.checkpoint = path
	return nil
}

// trainedOn says whether the run before the checkpoint had the data set of the given hash.
func (p *resumePoint) trainedOn(hash string) bool {
	if p.checkpoint == "" {
		return false
	}
	before, _, err := training.DatasetOf(p.checkpoint)
	return err == nil && before == hash
}

// checkKind refuses to go on with pictures where the run had latents, and the reverse: they may be of one data set, and
// a run goes on as it was.
func (p *resumePoint) checkKind(set samples.Set) error {
	if p.checkpoint == "" || isOriginal(p.checkpoint) {
		return nil
	}
	_, before, err := training.DatasetOf(p.checkpoint)
	if err != nil || before == "" || before == set.Kind { // what is wrong with it is said when it is read
		return nil
	}
	return otherKind(p.dir, before, fmt.Errorf("--data %s holds %s", set.Name, set.Kind))
}

// checkKindOfRun adds to the error that --data is no latents which latents the run that --resume names has.
func (o *trainOptions) checkKindOfRun(err error) error {
	if o.runConfig == "" {
		return err
	}
	run := filepath.Dir(o.runConfig)
	if before, _ := runs.Setting(run, "data"); before == o.data {
		return err
	}
	return otherKind(run, "latents", err)
}

// otherKind says that err, about --data, is that of data of another kind than those of the run.
func otherKind(run, kind string, err error) error {
	data, _ := runs.Setting(run, "data")
	return withHint(fmt.Errorf("resume %s: it was trained on %s (%s), %w", run, kind, data, err),
		"give the %s that it was trained on; --init-from %s instead of --resume begins a new run with its weights",
		kind, run)
}

// originalOf is the file of another program that the run in dir began from, "" for none.
func originalOf(dir string) string {
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
	return training.IsOriginal(path) && filepath.Base(path) != saves.LatestName
}

// runFolderOf returns the run folder that a checkpoint folder belongs to.
func runFolderOf(checkpoint string) (string, error) {
	if dir := runs.Of(checkpoint); dir != "" {
		return dir, nil
	}
	return "", fmt.Errorf("resume from %s: want a checkpoint in a run folder, such as "+
		"results/000-DiT-XL-2/checkpoints/latest", checkpoint)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) // below a file
}
