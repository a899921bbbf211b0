package training

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// state is what a run needs beside the tensors to go on.
type state struct {
	Step    int     `json:"step"`
	Epoch   int     `json:"epoch"`
	Offset  int     `json:"offset"` // batches that were passed over
	Trend   float64 `json:"trend"`  // running mean of the loss, for spikes
	World   int     `json:"world_size"`
	Config  Config  `json:"config"`
	Dataset string  `json:"dataset"`            // hash of the catalogue
	Kind    string  `json:"data,omitempty"`     // of its samples; "" in checkpoints from before it was kept
	LeftOut int     `json:"left_out,omitempty"` // bad pictures that were not among the samples
	VAE     string  `json:"vae_sha256"`         // of the weights that made the latents
	Text    string  `json:"text_encoder_sha256,omitempty"`

	Files []saves.File `json:"files"` // all others
}

// text is the state as its file holds it, with its own checksum.
func (st state) text() ([]byte, error) { return disk.MarshalSealed(st) }

// readState reads what the checkpoint folder dir, which may be the link `latest`, says of its run.
func readState(dir string) (state, error) {
	st, _, err := openCheckpoint(dir)
	return st, err
}

// openCheckpoint reads the state in the checkpoint folder dir, and what it says of the other files.
func openCheckpoint(dir string) (st state, f *saves.Folder, err error) {
	if f, err = saves.ReadFolder(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("no %s there: want a folder such as RUN/checkpoints/latest", saves.StateName)
		}
		return st, nil, fmt.Errorf("resume from %s: %w", dir, err)
	}
	fail := func(err error) (state, *saves.Folder, error) {
		return st, nil, fmt.Errorf("resume from %s: %s: %w", dir, saves.StateName, err)
	}
	if err := json.Unmarshal(f.State, &st); err != nil {
		return fail(err)
	}
	if st.Offset < 0 {
		return fail(fmt.Errorf("offset %d: want at least 0", st.Offset))
	}
	return st, f, nil
}

// sameStep holds the step of the state against that which the averages in dir say they are of.
func (st state) sameStep(dir string) error {
	w, err := dit.Read(filepath.Join(dir, saves.EMAName), "")
	if err != nil {
		return fmt.Errorf("resume from %s: %w", dir, err)
	}
	defer w.Close()
	if w.Step != st.Step {
		return fmt.Errorf("resume from %s: %s is of step %d, %s of step %d: damaged", dir, saves.StateName, st.Step,
			saves.EMAName, w.Step)
	}
	return nil
}

// fits returns an error unless a run with cfg on set can go on from the checkpoint in dir.
func (st state) fits(cfg Config, set samples.Set, dir string) error {
	switch {
	case st.Config.Model != cfg.Model:
		return fmt.Errorf("resume from %s: it holds %s (%s, latent size %s), this run is %s (%s, latent size %s)", dir,
			st.Config.Model.Design(), st.Config.Model.Conditions(), st.Config.Model.Size(), cfg.Model.Design(),
			cfg.Model.Conditions(), cfg.Model.Size())
	case SameObjective(st.Config, cfg) != nil:
		return fmt.Errorf("resume from %s: %w", dir, SameObjective(st.Config, cfg))
	case st.Config.GlobalBatchSize != cfg.GlobalBatchSize:
		return fmt.Errorf("resume from %s: it was trained with global batch size %d, this run has %d, which would "+
			"change the order of the data", dir, st.Config.GlobalBatchSize, cfg.GlobalBatchSize)
	case st.Config.GlobalSeed != cfg.GlobalSeed:
		return fmt.Errorf("resume from %s: it was trained with seed %d, this run has %d, which would change the "+
			"order of the data", dir, st.Config.GlobalSeed, cfg.GlobalSeed)
	case cmp.Or(st.Config.DataOrder, stream.ShuffleOrder) != cmp.Or(cfg.DataOrder, stream.ShuffleOrder):
		return fmt.Errorf("resume from %s: it was trained in %s order, this run has %s", dir,
			cmp.Or(st.Config.DataOrder, stream.ShuffleOrder), cmp.Or(cfg.DataOrder, stream.ShuffleOrder))
	case cfg.Model.HasClass() && classes.None(set.Classes) && hadClasses(dir): // the hash may be that of the classes
		return fmt.Errorf("resume from %s: it was trained on %d classes, the data in %s have none: go on with data of "+
			"those classes", dir, st.Config.Model.NumClasses, set.Name)
	case st.Dataset != set.Hash && st.LeftOut+set.LeftOut > 0:
		return fmt.Errorf("resume from %s: it was trained on another data set, or other bad pictures were left out "+
			"(%d then, %d now)", dir, st.LeftOut, set.LeftOut)
	case st.Dataset != set.Hash:
		return fmt.Errorf("resume from %s: it was trained on another data set", dir)
	case st.VAE != set.VAE:
		return fmt.Errorf("resume from %s: it was trained on latents of another VAE (weights %.12s, these are "+
			"of %.12s)", dir, st.VAE, set.VAE)
	case st.Text != cfg.textEncoder(set):
		return fmt.Errorf("resume from %s: it was trained on captions of another text encoder (sha256 %.12q, these "+
			"are of %.12q)", dir, st.Text, cfg.textEncoder(set))
	case st.Step > cfg.Steps(set.Samples):
		return fmt.Errorf("resume from %s: it is at step %d, this run ends at %d", dir, st.Step, cfg.Steps(set.Samples))
	}
	return nil
}

// hadClasses says whether the data of the checkpoint in dir had classes.
func hadClasses(dir string) bool {
	w, err := dit.Read(filepath.Join(dir, saves.EMAName), "")
	if err != nil {
		return false // whoever reads it next says so
	}
	defer w.Close()
	return len(w.Classes) > 0 && !classes.None(w.Classes)
}

// Check returns the error with which Run would refuse to start with world processes, found without computing: cfg
// that does not fit what it trains on, or a checkpoint that is not of such a run or not whole. Step is that of the
// checkpoint, 0 without one.
func Check(cfg Config, set samples.Set, world int, resume string) (step int, err error) {
	if err := cfg.check(set, world); err != nil {
		return 0, err
	}
	if resume == "" {
		return 0, nil
	}
	if IsOriginal(resume) {
		t, err := openOriginal(resume, cfg, set)
		if err != nil {
			return 0, err
		}
		defer t.Close()
		return t.Step, t.Verify()
	}
	st, f, err := openCheckpoint(resume)
	if err != nil {
		return 0, err
	}
	if err := st.fits(cfg, set, resume); err != nil {
		return 0, err
	}
	if err := f.Whole(); err != nil {
		return 0, fmt.Errorf("resume from %s: %w: %s", resume, err, f.Advice())
	}
	return st.Step, st.sameStep(resume)
}

// DatasetOf returns the hash of the data set that the checkpoint in dir was trained on, and the Kind of its samples, ""
// where the checkpoint does not say.
func DatasetOf(dir string) (hash, kind string, err error) {
	st, err := readState(dir)
	return st.Dataset, st.Kind, err
}

// ConfigOf returns the configuration of the run whose checkpoint is in dir.
func ConfigOf(dir string) (Config, error) {
	st, err := readState(dir)
	return st.Config, err
}

// Newest returns the newest whole checkpoint of those in dir, "" if there is none, and what is wrong with newer ones.
func Newest(dir string) (path string, damaged []error, err error) {
	path, damaged, err = saves.Newest(dir)
	for i, problem := range damaged {
		damaged[i] = fmt.Errorf("resume from %w", problem)
	}
	return path, damaged, err
}

// load takes the run up at the checkpoint in dir, of whatever number of processes.
func (r *runner) load(s *torch.Scope, dir string) error {
	if IsOriginal(dir) {
		return r.loadOriginal(s, dir)
	}
	st, folder, err := openCheckpoint(dir)
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
	open := checkpoint.OpenSafetensors
	if r.group.Rank() > 0 { // rank 0 reads them all as well
		open = checkpoint.OpenUnverified
	}
	var pieces []checkpoint.Source
	for i, saved := range folder.Files {
		f, err := open(filepath.Join(dir, saved.Name))
		if err != nil {
			return err
		}
		files[saved.Name] = f
		if i >= 2 {
			pieces = append(pieces, f)
		}
	}
	if r.step > 0 { // on a return to it the weights are of use, and nothing may happen to them that is not whole
		for _, saved := range folder.Files {
			if err := files[saved.Name].Verify(); err != nil {
				return err
			}
		}
	}
	if err := nn.Load(s, r.model, files[saves.ModelName], false); err != nil {
		return fail(saves.ModelName, err)
	}
	if err := r.opt.Load(s, pieces, files[saves.EMAName]); err != nil {
		return fail("optimizer and "+saves.EMAName, err)
	}
	s.NoGrad().Fill_(r.trend, st.Trend)
	r.step, r.epoch, r.offset, r.saved = st.Step, st.Epoch, st.Offset, st.Step
	r.result = Result{Step: st.Step, Checkpoint: dir}
	return nil
}

// state is what is saved of the run beside the tensors, without the files.
func (r *runner) state() state {
	return state{Step: r.step, Epoch: r.epoch, Offset: r.offset, Trend: r.trend.Item(), World: r.group.World(),
		Config: r.cfg, Dataset: r.set.Hash, Kind: r.set.Kind, LeftOut: r.set.LeftOut, VAE: r.set.VAE,
		Text: r.cfg.textEncoder(r.set)}
}

// textEncoder identifies what made the captions that a run is conditioned on, "" without.
func (c Config) textEncoder(set samples.Set) string {
	if !c.Model.HasText() {
		return ""
	}
	return set.Text.Encoder.SHA256
}

// info is what the files of weights say of themselves.
func (r *runner) info() dit.Info {
	info := dit.Info{Config: r.cfg.Model, ImageSize: r.cfg.ImageSize.Height, ScalingFactor: r.set.ScalingFactor,
		VAE: r.set.VAE, VAEName: r.set.VAEName, Step: r.step, Process: r.cfg.Process()}
	if r.cfg.Model.HasClass() {
		info.Classes = r.set.Classes
	}
	if r.cfg.Model.HasText() {
		info.TextEncoder = dit.TextEncoder{Name: r.set.Text.Encoder.Name, SHA256: r.set.Text.Encoder.SHA256}
	}
	return info
}
