package training

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/optim"
)

// IsOriginal says whether a checkpoint to go on from is a file, as the training script of facebookresearch/DiT saves
// it, and not a folder of this program.
func IsOriginal(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// openOriginal opens such a file for a run with cfg on set.
func openOriginal(path string, cfg Config, set samples.Set) (*dit.Training, error) {
	w, err := dit.Read(path, cfg.Model.Name())
	if err != nil {
		// Where the file holds another model than the one by which it was asked for the heads, that is what is wrong.
		if other, otherErr := dit.Read(path, ""); otherErr == nil {
			w, err = other, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("resume from %s: %w", path, err)
	}
	t, err := w.Training()
	if err == nil {
		err = originalFits(t, cfg, set)
	}
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("resume from %s: %w", path, err)
	}
	return t, nil
}

// originalFits returns an error unless a run with cfg on set can go on from t.
func originalFits(t *dit.Training, cfg Config, set samples.Set) error {
	held := t.Config
	if held.ClassDropoutProb > 0 && cfg.Model.ClassDropoutProb > 0 {
		held.ClassDropoutProb = cfg.Model.ClassDropoutProb // the file does not say how many are dropped
	}
	switch {
	case t.Process != cfg.predicts():
		return otherObjective(t.Process, cfg.predicts())
	case held != cfg.Model:
		return fmt.Errorf("it holds %s (%s), this run is %s (%s): want --model %s --num-classes %d, and latents of "+
			"its size",
			held.Design(), sizes(held), cfg.Model.Design(), sizes(cfg.Model), held.Name(), held.NumClasses)
	case t.Step > cfg.Steps(set.Samples):
		return fmt.Errorf("it is at step %d, this run ends at %d", t.Step, cfg.Steps(set.Samples))
	}
	return nil
}

// sizes says in words what a model has beside its name.
func sizes(c dit.Config) string {
	null := "a null class"
	if c.ClassDropoutProb == 0 {
		null = "no null class"
	}
	return fmt.Sprintf("%s, %s, latent size %s of %s, %s", c.Conditions(), null, c.Size(),
		names.Plural(c.InChannels, "channel"), names.Plural(c.OutChannels(), "output channel"))
}

// loadOriginal takes the run up where the training script of the original left it. The order of the data is not that of
// the script: it is the one that a run of this program has from that step on.
func (r *runner) loadOriginal(s *torch.Scope, path string) error {
	t, err := openOriginal(path, r.cfg, r.set)
	if err != nil {
		return err
	}
	defer t.Close()
	if r.step > 0 { // on a return to it, as in load
		if err := t.Verify(); err != nil {
			return err
		}
	}
	if err := nn.Load(s, r.model, t.Trained, false); err != nil {
		return fmt.Errorf("resume from %s: model: %w", path, err)
	}
	if err := r.opt.Load(s, []checkpoint.Source{t.Optimizer}, t.Source); err != nil {
		return fmt.Errorf("resume from %s: %w", path, err)
	}
	s.NoGrad().Fill_(r.trend, 0)
	r.step, r.offset = t.Step, 0
	r.epoch = (t.Step - 1) / max(r.set.Samples/r.cfg.GlobalBatchSize, 1)
	r.saved = 0 // nothing of it is in the folder of this run
	r.result = Result{Step: t.Step, Checkpoint: path, Saved: t.Step}
	return nil
}

// originalChanges says in words in what a run with cfg on set differs from the one that saved t, as far as the file
// says.
func originalChanges(t *dit.Training, cfg Config, set samples.Set) (list []string) {
	adamw := optim.DefaultConfig
	for _, f := range []struct {
		name, before string
		now          float64
	}{
		{"global-batch-size", t.Args["global_batch_size"], float64(cfg.GlobalBatchSize)},
		{"global-seed", t.Args["global_seed"], float64(cfg.GlobalSeed)},
		{"lr", t.Group["lr"], cfg.learningRate(t.Step, cfg.Steps(set.Samples))},
		{"weight-decay", t.Group["weight_decay"], cfg.WeightDecay},
		{"beta1", t.Group["betas.0"], adamw.Beta1},
		{"beta2", t.Group["betas.1"], adamw.Beta2},
		{"eps", t.Group["eps"], adamw.Eps},
	} {
		if before, err := strconv.ParseFloat(f.before, 64); err == nil && before != f.now {
			list = append(list, fmt.Sprintf("%s %s before, %v now", f.name, f.before, f.now))
		}
	}
	if t.ScalingFactor != set.ScalingFactor {
		list = append(list, fmt.Sprintf("latents scaled by %.6g before, by %.6g now", t.ScalingFactor,
			set.ScalingFactor))
	}
	return list
}

// OriginalNotes says what is to be known of a run with cfg that goes on from the file of another program.
func OriginalNotes(path string, cfg Config, set samples.Set) ([]string, error) {
	t, err := openOriginal(path, cfg, set)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	notes := []string{fmt.Sprintf("%s is a checkpoint of DiT's own training script, which has another order "+
		"of the data: they go on in the order that this program has from step %d", path, t.Step)}
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	if n, err := strconv.Atoi(name); err == nil && n != t.Step {
		notes = append(notes, fmt.Sprintf("the file is called %s, its optimizer counts %s: the run goes on at "+
			"step %d", name, names.Plural(t.Step, "step"), t.Step))
	}
	return notes, nil
}
