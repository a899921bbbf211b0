package training

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/ditrun/ditrun/data"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// The files of a checkpoint folder, such as checkpoints/0050000.
const (
	modelFile  = "model.safetensors" // the weights that are trained
	emaFile    = "ema.safetensors"   // their averages, which are sampled from
	stateFile  = "state.json"
	latestLink = "latest" // beside the folders
)

// optimizerFile is what one of world processes keeps of the optimizer.
func optimizerFile(rank, world int) string {
	return fmt.Sprintf("optimizer-%03d-of-%03d.safetensors", rank, world)
}

// state is what a run needs beside the tensors to go on.
type state struct {
	Step    int     `json:"step"`
	Epoch   int     `json:"epoch"`
	Offset  int     `json:"offset"` // batches that were passed over
	Trend   float64 `json:"trend"`  // running mean of the loss, for spikes
	World   int     `json:"world_size"`
	Config  Config  `json:"config"`
	Dataset string  `json:"dataset"`    // hash of the catalogue
	VAE     string  `json:"vae_sha256"` // of the weights that made the latents
	Text    string  `json:"text_encoder_sha256,omitempty"`

	Files []savedFile `json:"files"` // all others
}

// savedFile is a file of a checkpoint as it was written.
type savedFile struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// describeFile reads a file that was just written.
func describeFile(dir, name string) (savedFile, error) {
	f := savedFile{File: name}
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		return f, err
	}
	f.Bytes = info.Size()
	f.SHA256, err = disk.SHA256(filepath.Join(dir, name))
	return f, err
}

// names are the files that the checkpoint of a run of so many processes has.
func (st *state) names() []string {
	names := []string{modelFile, emaFile}
	for rank := range st.World {
		names = append(names, optimizerFile(rank, st.World))
	}
	return names
}

// maxState bounds what is read of a state.json that may not be one.
const maxState = 16 << 20

// readState reads what the checkpoint folder dir, which may be the link `latest`, says of its run.
func readState(dir string) (state, error) {
	var st state
	path := filepath.Join(dir, stateFile)
	info, err := os.Stat(path)
	if err != nil {
		return st, fmt.Errorf("resume from %s: no %s there: want a folder such as RUN/checkpoints/latest", dir, stateFile)
	}
	fail := func(err error) (state, error) {
		return st, fmt.Errorf("resume from %s: %s: %w", dir, stateFile, err)
	}
	if info.Size() > maxState {
		return fail(fmt.Errorf("%d bytes: want at most %d", info.Size(), maxState))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fail(disk.Bare(err))
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return fail(err)
	}
	switch {
	case st.Step < 1 || st.Offset < 0:
		return fail(fmt.Errorf("step %d, offset %d: want at least 1 and 0", st.Step, st.Offset))
	case st.World < 1 || st.World > 1<<16:
		return fail(fmt.Errorf("world size %d: want 1 to %d", st.World, 1<<16))
	}
	return st, nil
}

// whole compares the files of the checkpoint in dir with their checksums.
func (st *state) whole(dir string) error {
	fail := func(name string, err error) error {
		return fmt.Errorf("resume from %s: %s: %w", dir, name, err)
	}
	want := st.names()
	if len(st.Files) != len(want) {
		return fail(stateFile, fmt.Errorf("lists %d files, want %d for %d processes", len(st.Files), len(want), st.World))
	}
	for i, f := range st.Files {
		// The name is compared, not used: a path in it would lead out of the folder.
		if f.File != want[i] {
			return fail(stateFile, fmt.Errorf("file %d is called %q, want %q", i, f.File, want[i]))
		}
		have, err := describeFile(dir, f.File)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fail(f.File, errors.New("missing"))
		case err != nil:
			return fail(f.File, disk.Bare(err))
		case have.Bytes != f.Bytes:
			return fail(f.File, fmt.Errorf("%d bytes, %d when it was written: cut short or damaged", have.Bytes, f.Bytes))
		case have.SHA256 != f.SHA256:
			return fail(f.File, fmt.Errorf("sha256 %.12s..., %.12s... when it was written: damaged", have.SHA256, f.SHA256))
		}
	}
	return nil
}

// fits returns an error unless a run with cfg on set can go on from the checkpoint in dir.
func (st state) fits(cfg Config, set Set, dir string) error {
	switch {
	case st.Config.Model != cfg.Model:
		return fmt.Errorf("resume from %s: it holds %s (%s, latent size %s), this run is %s (%s, latent size %s)", dir,
			st.Config.Model.Design(), st.Config.Model.Conditions(), st.Config.Model.Size(), cfg.Model.Design(), cfg.Model.Conditions(), cfg.Model.Size())
	case st.Config.GlobalBatchSize != cfg.GlobalBatchSize:
		return fmt.Errorf("resume from %s: it was trained with global batch size %d, this run has %d, which would change the order of the data", dir, st.Config.GlobalBatchSize, cfg.GlobalBatchSize)
	case st.Config.GlobalSeed != cfg.GlobalSeed:
		return fmt.Errorf("resume from %s: it was trained with seed %d, this run has %d, which would change the order of the data", dir, st.Config.GlobalSeed, cfg.GlobalSeed)
	case cmp.Or(st.Config.DataOrder, data.ShuffleOrder) != cmp.Or(cfg.DataOrder, data.ShuffleOrder):
		return fmt.Errorf("resume from %s: it was trained in %s order, this run has %s", dir, cmp.Or(st.Config.DataOrder, data.ShuffleOrder), cmp.Or(cfg.DataOrder, data.ShuffleOrder))
	case st.Dataset != set.Hash:
		return fmt.Errorf("resume from %s: it was trained on another data set", dir)
	case st.VAE != set.VAE:
		return fmt.Errorf("resume from %s: it was trained on latents of another VAE (weights %.12s, these are of %.12s)", dir, st.VAE, set.VAE)
	case st.Text != cfg.textEncoder(set):
		return fmt.Errorf("resume from %s: it was trained on captions of another text encoder (sha256 %.12q, these are of %.12q)", dir, st.Text, cfg.textEncoder(set))
	case st.Step > cfg.Steps(set.Samples):
		return fmt.Errorf("resume from %s: it is at step %d, this run ends at %d", dir, st.Step, cfg.Steps(set.Samples))
	}
	return nil
}

// Check returns the error with which Run would refuse to start with world processes, found without computing: cfg that does
// not fit what it trains on, or a checkpoint that is not of such a run or not whole. Step is that of the checkpoint, 0
// without one.
func Check(cfg Config, set Set, world int, resume string) (step int, err error) {
	if err := cfg.check(set, world); err != nil {
		return 0, err
	}
	if resume == "" {
		return 0, nil
	}
	st, err := readState(resume)
	if err != nil {
		return 0, err
	}
	if err := st.fits(cfg, set, resume); err != nil {
		return 0, err
	}
	return st.Step, st.whole(resume)
}

var checkpointName = regexp.MustCompile(`^\d{7,}$`)

// checkpoints are the steps of the checkpoints in dir, whole or not, in order.
func checkpoints(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var steps []int
	for _, e := range entries {
		if e.IsDir() && checkpointName.MatchString(e.Name()) {
			if step, err := strconv.Atoi(e.Name()); err == nil {
				steps = append(steps, step)
			}
		}
	}
	slices.Sort(steps)
	return steps, nil
}

func stepName(step int) string { return fmt.Sprintf("%07d", step) }

// Newest returns the newest whole checkpoint of those in dir, "" if there is none, and what is wrong with newer ones.
func Newest(dir string) (path string, damaged []error, err error) {
	steps, err := checkpoints(dir)
	if err != nil {
		return "", nil, err
	}
	for _, step := range slices.Backward(steps) {
		path := filepath.Join(dir, stepName(step))
		st, err := readState(path)
		if err == nil {
			err = st.whole(path)
		}
		if err == nil {
			return path, damaged, nil
		}
		damaged = append(damaged, err)
	}
	return "", damaged, nil
}

// load takes the run up at the checkpoint in dir, of whatever number of processes.
func (r *runner) load(s *torch.Scope, dir string) error {
	st, err := readState(dir)
	if err != nil {
		return err
	}
	if err := st.fits(r.cfg, r.set, dir); err != nil {
		return err
	}
	fail := func(name string, err error) error {
		return fmt.Errorf("resume from %s: %s: %w", dir, name, err)
	}
	files := map[string]*checkpoint.File{}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var pieces []checkpoint.Source
	for i, name := range st.names() {
		f, err := checkpoint.OpenSafetensors(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		files[name] = f
		if i >= 2 {
			pieces = append(pieces, f)
		}
	}
	if err := nn.Load(s, r.model, files[modelFile], false); err != nil {
		return fail(modelFile, err)
	}
	if err := r.opt.Load(s, pieces, files[emaFile]); err != nil {
		return fail("optimizer and "+emaFile, err)
	}
	s.NoGrad().Fill_(r.trend, st.Trend)
	r.step, r.epoch, r.offset, r.saved = st.Step, st.Epoch, st.Offset, st.Step
	r.result = Result{Step: st.Step, Checkpoint: dir}
	return nil
}

// state is what is saved of the run beside the tensors, without the files.
func (r *runner) state() state {
	return state{Step: r.step, Epoch: r.epoch, Offset: r.offset, Trend: r.trend.Item(), World: r.group.World(), Config: r.cfg, Dataset: r.set.Hash, VAE: r.set.VAE, Text: r.cfg.textEncoder(r.set)}
}

// textEncoder identifies what made the captions that a run is conditioned on, "" without.
func (c Config) textEncoder(set Set) string {
	if !c.Model.HasText() {
		return ""
	}
	return set.Text.Encoder.SHA256
}

// info is what the files of weights say of themselves.
func (r *runner) info() dit.Info {
	info := dit.Info{Config: r.cfg.Model, ImageSize: r.cfg.ImageSize.Height, ScalingFactor: r.set.ScalingFactor, VAE: r.set.VAE, Step: r.step}
	if r.cfg.Model.HasClass() {
		info.Classes = r.set.Classes
	}
	if r.cfg.Model.HasText() {
		info.TextEncoder = dit.TextEncoder{Name: r.set.Text.Encoder.Name, SHA256: r.set.Text.Encoder.SHA256}
	}
	return info
}
