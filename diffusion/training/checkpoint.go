package training

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// The files of a checkpoint folder, such as checkpoints/0050000.
const (
	modelFile     = "model.safetensors" // the weights that are trained
	emaFile       = "ema.safetensors"   // their averages, which are sampled from
	optimizerFile = "optimizer-000-of-001.safetensors"
	stateFile     = "state.json"
	latestLink    = "latest" // beside the folders
	asideMark     = ".tmp-"  // in the names of folders that are being written
)

// state is what a run needs beside the tensors to go on.
type state struct {
	Step    int    `json:"step"`
	Epoch   int    `json:"epoch"`
	Config  Config `json:"config"`
	Dataset string `json:"dataset"`    // hash of the catalogue
	VAE     string `json:"vae_sha256"` // of the weights that made the latents
}

// save writes the checkpoint of the current step: aside, synced, renamed, `latest` last. Killed at any
// moment it leaves the checkpoints before it as they were.
func (r *runner) save(s *torch.Scope, epoch int) error {
	if v := torch.Data[float32](r.sums); !finite(float64(v[0])) || !finite(float64(v[3])) {
		return fmt.Errorf("step %d: the loss or a gradient is not a finite number; no checkpoint is written", r.step)
	}
	name := fmt.Sprintf("%07d", r.step)
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(r.dir, 0o777); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	// What a run that was killed left: a checkpoint of a large model takes gigabytes.
	stale, _ := filepath.Glob(filepath.Join(r.dir, ".*"+asideMark+"*"))
	for _, path := range stale {
		os.RemoveAll(path)
	}
	aside, err := os.MkdirTemp(r.dir, "."+name+asideMark)
	if err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	defer os.RemoveAll(aside) // what did not become the checkpoint
	err = s.Try(func(s *torch.Scope) error { return r.write(s, aside, epoch) })
	if err == nil {
		err = publish(aside, path)
	}
	if err == nil {
		err = link(name, filepath.Join(r.dir, latestLink))
	}
	if err != nil {
		return fmt.Errorf("save checkpoint of step %d: %w", r.step, err)
	}
	r.result = Result{r.step, path}
	if r.hooks.Saved != nil {
		r.hooks.Saved(path, r.step)
	}
	return nil
}

func (r *runner) write(s *torch.Scope, dir string, epoch int) error {
	m := r.latents.Manifest()
	info := dit.Info{Config: r.cfg.Model, ImageSize: r.cfg.ImageSize, Classes: r.latents.Classes(), ScalingFactor: m.VAE.ScalingFactor, VAE: m.VAE.SHA256, Step: r.step}
	if err := dit.Save(filepath.Join(dir, modelFile), nn.List(r.model), info); err != nil {
		return err
	}
	info.EMA = true
	if err := dit.Save(filepath.Join(dir, emaFile), r.averages, info); err != nil {
		return err
	}
	if err := checkpoint.Write(filepath.Join(dir, optimizerFile), nn.Snapshot(r.opt.State(s)), map[string]string{"format": "pt"}); err != nil {
		return err
	}
	text, err := json.MarshalIndent(state{r.step, epoch, r.cfg, m.Dataset.Hash, m.VAE.SHA256}, "", "  ")
	if err != nil {
		return err
	}
	return checkpoint.WriteFile(filepath.Join(dir, stateFile), func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
}

// publish renames aside to path; a folder of an earlier attempt at the same step trades places with
// it, so that at every moment a whole one stands at path.
func publish(aside, path string) error {
	if err := os.Chmod(aside, 0o755); err != nil {
		return err
	}
	err := os.Rename(aside, path)
	if errors.Is(err, os.ErrExist) {
		err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return err
	}
	return checkpoint.SyncDir(filepath.Dir(path))
}

// link makes the symbolic link at path refer to name, replacing another at once.
func link(name, path string) error {
	aside := path + ".tmp"
	if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(name, aside); err != nil {
		return err
	}
	if err := os.Rename(aside, path); err != nil {
		return err
	}
	return checkpoint.SyncDir(filepath.Dir(path))
}

// Check returns the error with which Run would refuse to start, found without computing: cfg that does
// not fit the latents, or a checkpoint that is not of such a run or not whole. step is that of the
// checkpoint, 0 without one.
func Check(cfg Config, latents *data.Latents, resume string) (step int, err error) {
	if err := cfg.check(latents); err != nil {
		return 0, err
	}
	if resume == "" {
		return 0, nil
	}
	st, err := readState(resume)
	if err != nil {
		return 0, err
	}
	if err := st.fits(cfg, latents, resume); err != nil {
		return 0, err
	}
	for _, name := range []string{modelFile, emaFile, optimizerFile} {
		f, err := checkpoint.OpenSafetensors(filepath.Join(resume, name))
		if err != nil {
			return 0, fmt.Errorf("resume from %s: %w", resume, err)
		}
		f.Close()
	}
	return st.Step, nil
}

// readState reads what the checkpoint folder dir, which may be the link `latest`, says of its run.
func readState(dir string) (state, error) {
	var st state
	text, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return st, fmt.Errorf("resume from %s: no %s there: want a folder such as RUN/checkpoints/latest", dir, stateFile)
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return st, fmt.Errorf("resume from %s: %s: %w", dir, stateFile, err)
	}
	if st.Step < 1 {
		return st, fmt.Errorf("resume from %s: step %d, want at least 1", dir, st.Step)
	}
	return st, nil
}

// fits returns an error unless a run with cfg on latents can go on from the checkpoint in dir.
func (st state) fits(cfg Config, latents *data.Latents, dir string) error {
	switch {
	case st.Config.Model != cfg.Model:
		return fmt.Errorf("resume from %s: it holds %s (%d classes, latent size %d), this run is %s (%d classes, latent size %d)", dir,
			st.Config.Model.Name(), st.Config.Model.NumClasses, st.Config.Model.InputSize, cfg.Model.Name(), cfg.Model.NumClasses, cfg.Model.InputSize)
	case st.Config.GlobalBatchSize != cfg.GlobalBatchSize:
		return fmt.Errorf("resume from %s: it was trained with global batch size %d, this run has %d, which would change the order of the data", dir, st.Config.GlobalBatchSize, cfg.GlobalBatchSize)
	case st.Config.GlobalSeed != cfg.GlobalSeed:
		return fmt.Errorf("resume from %s: it was trained with seed %d, this run has %d, which would change the order of the data", dir, st.Config.GlobalSeed, cfg.GlobalSeed)
	case st.Dataset != latents.Manifest().Dataset.Hash:
		return fmt.Errorf("resume from %s: it was trained on another data set", dir)
	case st.VAE != latents.Manifest().VAE.SHA256:
		return fmt.Errorf("resume from %s: it was trained on latents of another VAE (weights %.12s, these are of %.12s)", dir, st.VAE, latents.Manifest().VAE.SHA256)
	case st.Step > cfg.Steps(latents.Len()):
		return fmt.Errorf("resume from %s: it is at step %d, this run ends at %d", dir, st.Step, cfg.Steps(latents.Len()))
	}
	return nil
}

// load takes the run up at the checkpoint in dir.
func (r *runner) load(s *torch.Scope, dir string) error {
	st, err := readState(dir)
	if err != nil {
		return err
	}
	if err := st.fits(r.cfg, r.latents, dir); err != nil {
		return err
	}
	open := func(name string, use func(f *checkpoint.File) error) error {
		f, err := checkpoint.OpenSafetensors(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := use(f); err != nil {
			return fmt.Errorf("resume from %s: %s: %w", dir, name, err)
		}
		return nil
	}
	err = open(modelFile, func(f *checkpoint.File) error { return nn.Load(s, r.model, f, false) })
	if err != nil {
		return err
	}
	err = open(optimizerFile, func(opt *checkpoint.File) error {
		return open(emaFile, func(ema *checkpoint.File) error { return r.opt.Load(s, []checkpoint.Source{opt}, ema) })
	})
	if err != nil {
		return err
	}
	r.step = st.Step
	r.result = Result{Step: st.Step, Checkpoint: dir}
	return nil
}
