package vae

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
)

// Saves says where a training run keeps what it needs to go on, a folder with the weights as [Open] reads them, the
// optimizer, and a list of the files with their checksums. It is replaced whole, so at every moment a whole one is
// there. The zero value keeps nothing.
type Saves struct {
	Dir string
	// Every is the number of steps between two saves. There is one at the start too, which tries whether Dir can be
	// written, and one at the end.
	Every  int
	Data   string          // names the pictures and their order
	Resume *State          // where the run goes on, of [ReadState]; nil starts it
	Pauses []time.Duration // before new tries of a save that failed for a reason which may pass

	OnSave func(step int) // after a save; may be nil
	// OnError is called when a save failed, and training goes on; may be nil. A failure at the start ends the run.
	OnError func(error)
}

// The files of a save, beside ConfigName and WeightsName.
const (
	averageName   = "average.safetensors" // of the weights, where they are averaged
	optimizerName = "optimizer.safetensors"
	stateName     = "train-vae.json" // the checksums of the others, and its own
)

// A State describes the run that a save is of.
type State struct {
	Step   int          `json:"step"` // the number of steps done
	Config TrainConfig  `json:"config"`
	Data   string       `json:"data"`
	Losses *Losses      `json:"losses,omitempty"` // the newest that were read
	Files  []saves.File `json:"files"`

	dir string
}

// names are those of the files of a save.
func (c TrainConfig) names() []string {
	names := []string{WeightsName, optimizerName, ConfigName}
	if c.EMADecay > 0 {
		names = append(names, averageName)
	}
	return names
}

// SaveBytes is about what a save takes on a disk: the weights, AdamW's two moments and, where there are some, the
// averages, all Float32.
func (c TrainConfig) SaveBytes() int64 {
	copies := 3
	if c.EMADecay > 0 {
		copies++
	}
	return int64(copies * 4 * c.Model.NumParams())
}

// ReadState reads the save in dir and compares all of it with its checksums. Without one the error is fs.ErrNotExist.
func ReadState(dir string) (*State, error) {
	st := &State{dir: dir}
	fail := func(name string, err error) (*State, error) {
		return nil, fmt.Errorf("resume from %s: %s: %w", dir, name, disk.Bare(err))
	}
	f, err := os.Open(filepath.Join(dir, stateName))
	if err != nil {
		return fail(stateName, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigSize))
	if err != nil {
		return fail(stateName, err)
	}
	if err := json.Unmarshal(text, st); err != nil {
		return fail(stateName, err)
	}
	if err := disk.CheckSeal(text); err != nil {
		return fail(stateName, err)
	}
	want := st.Config.names()
	if len(st.Files) != len(want) {
		return fail(stateName, fmt.Errorf("lists %s, want %d: damaged",
			names.Plural(len(st.Files), "file"), len(want)))
	}
	for i, have := range st.Files {
		if have.Name != want[i] {
			return fail(stateName, fmt.Errorf("file %d is called %q, want %q", i, have.Name, want[i]))
		}
		if err := have.Whole(dir); err != nil { // a missing file is not fs.ErrNotExist: there is a save
			return nil, fmt.Errorf("resume from %s: %w", dir, err)
		}
	}
	return st, nil
}

// Fits returns an error unless a run with cfg can go on from the save. The interval of reports may be another.
func (st *State) Fits(cfg TrainConfig) error {
	have, want := reflect.ValueOf(st.Config), reflect.ValueOf(cfg)
	for i := range have.NumField() {
		name := have.Type().Field(i).Tag.Get("json")
		a, b := have.Field(i).Interface(), want.Field(i).Interface()
		switch {
		case name == "-" || reflect.DeepEqual(a, b):
		case name == "model":
			return fmt.Errorf("resume from %s: it holds another model", st.dir)
		default:
			return fmt.Errorf("resume from %s: it was trained with %s %v, this run has %v", st.dir, name, a, b)
		}
	}
	return nil
}

// save writes the state after step steps.
func (t *trainer) save(s *torch.Scope, step int) error {
	if err := t.checkFinite(s); err != nil {
		return err
	}
	shot, err := t.opt.Snapshot(s.NoGrad())
	if err != nil {
		return err
	}
	defer shot.Close()
	moments, momentsMeta := shot.Optimizer()
	err = disk.ReplaceFolder(t.saves.Dir, func(dir string) error {
		st := State{Step: step, Config: t.cfg, Data: t.saves.Data, Losses: t.losses}
		for _, name := range t.cfg.names() {
			tensors, meta := shot.Weights(), map[string]string{"format": "pt"}
			switch name {
			case averageName:
				tensors = shot.Averages()
			case optimizerName:
				tensors, meta = moments, momentsMeta
			}
			file, err := saves.Write(dir, name, func(w io.Writer) error {
				if name == ConfigName {
					return encodeConfig(w, t.cfg.Model)
				}
				return checkpoint.Encode(w, tensors, meta, checkpoint.Options{})
			})
			if err != nil {
				return err
			}
			st.Files = append(st.Files, file)
		}
		text, err := disk.MarshalSealed(st)
		if err != nil {
			return err
		}
		return disk.WriteBytes(filepath.Join(dir, stateName), text)
	})
	if err != nil {
		return err
	}
	t.saved = step
	if t.saves.OnSave != nil {
		t.saves.OnSave(step)
	}
	return nil
}

// trySave saves, with more than one try if need be. A save that fails is reported, and the one before stays.
func (t *trainer) trySave(ctx context.Context, s *torch.Scope, step int) {
	err := disk.Retry(ctx, t.saves.Pauses, func() error { return t.save(s, step) })
	if err != nil && t.saves.OnError != nil {
		t.saves.OnError(fmt.Errorf("save VAE of step %d: %w", step, err))
	}
}

// checkFinite returns an error where weights are not finite.
func (t *trainer) checkFinite(s *torch.Scope) error {
	return s.NoGrad().Try(func(s *torch.Scope) error {
		for name, p := range nn.Params(t.model) {
			if v := s.Sum(s.Abs(p)).Item(); math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("tensor %q has numbers that are not finite", name)
			}
		}
		return nil
	})
}

// load continues the run where the save has it.
func (t *trainer) load(s *torch.Scope, st *State) error {
	files := map[string]*checkpoint.File{}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, name := range t.cfg.names() {
		if name == ConfigName {
			continue
		}
		f, err := checkpoint.OpenSafetensors(filepath.Join(st.dir, name))
		if err != nil {
			return fmt.Errorf("resume from %s: %w", st.dir, err)
		}
		files[name] = f
	}
	averages := files[averageName]
	if averages == nil { // there is no average, and what takes its place is not used
		averages = files[WeightsName]
	}
	if err := nn.Load(s, t.model, files[WeightsName], false); err != nil {
		return fmt.Errorf("resume from %s: %s: %w", st.dir, WeightsName, err)
	}
	if err := t.opt.Load(s, []checkpoint.Source{files[optimizerName]}, averages); err != nil {
		return fmt.Errorf("resume from %s: %w", st.dir, err)
	}
	t.done, t.losses = st.Step, st.Losses
	return nil
}
