package training

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/internal/saves"
)

// copyDir copies the files of a checkpoint.
func copyDir(t *testing.T, from, to string) string {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range checkpointFiles {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b
	}
	return out
}

func TestResumeRefuses(t *testing.T) {
	l, cfg, dir := synthetic(t, syntheticPlan(20)), small(2), t.TempDir()
	result, _ := run(t, cfg, l, dir, "", Hooks{})
	good := result.Checkpoint
	was := contents(t, good)

	otherSet, otherVAE, noClasses := syntheticPlan(20), syntheticPlan(20), syntheticPlan(20)
	noClasses.Dataset.Classes = classes.Unnamed() // and the hash stays
	otherSet.Dataset.Hash = "another"
	otherVAE.VAE.SHA256 = strings.Repeat("cd", 32)
	broken := func(name string, change func(path string) error) string {
		copied := copyDir(t, good, filepath.Join(t.TempDir(), "0000002"))
		if err := change(filepath.Join(copied, name)); err != nil {
			t.Fatal(err)
		}
		return copied
	}
	cut := func(path string) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, st.Size()/2)
	}
	with := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o666) }
	}
	asModel := func(path string) error {
		if err := os.WriteFile(path, was[saves.ModelName], 0o666); err != nil {
			return err
		}
		return signAnew(filepath.Dir(path), nil)
	}
	stateOf := func(change func(*state)) func(string) error {
		return func(path string) error { return signAnew(filepath.Dir(path), change) }
	}
	edited := func(old, new string) func(string) error {
		return func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil || !bytes.Contains(b, []byte(old)) {
				return fmt.Errorf("%s does not hold %s: %v", path, old, err)
			}
			return os.WriteFile(path, bytes.Replace(b, []byte(old), []byte(new), 1), 0o666)
		}
	}
	same := func(*Config) {}
	for _, c := range []struct {
		what   string
		resume string
		l      *latents.Set
		change func(*Config)
		want   string
	}{
		{"another model", good, l, func(c *Config) { c.Model.Depth = 1 },
			"it holds DiT-24x2x2/2 (3 classes, latent size 4), this run is DiT-24x1x2/2"},
		{"more classes", good, l, func(c *Config) { c.Model.NumClasses = 10 }, "this run is DiT-24x2x2/2 (10 classes"},
		{"another batch size", good, l, func(c *Config) { c.GlobalBatchSize = 4 },
			"global batch size 8, this run has 4"},
		{"another seed", good, l, func(c *Config) { c.GlobalSeed = 8 }, "seed 7, this run has 8"},
		{"another data set", good, synthetic(t, otherSet), same, "another data set"},
		{"no classes", good, synthetic(t, noClasses), same, "it was trained on 3 classes, the data in "},
		{"another VAE", good, synthetic(t, otherVAE), same,
			"latents of another VAE (weights abababababab, these are of cdcdcdcdcdcd)"},
		{"a shorter run", good, l, func(c *Config) { c.MaxSteps = 1 }, "it is at step 2, this run ends at 1"},
		{"no such folder", filepath.Join(dir, "none"), l, same,
			"no state.json there: want a folder such as RUN/checkpoints/latest"},
		{"the run folder", dir, l, same, "no state.json there"},
		{"no state", broken(saves.StateName, os.Remove), l, same, "no state.json there"},
		{"half a state", broken(saves.StateName, cut), l, same, "state.json: "},
		{"a state without step", broken(saves.StateName, with("{}")), l, same, "step 0"},
		{"another step", broken(saves.StateName, edited(`"step": 2`, `"step": 3`)), l, same, "state.json: sha256 "},
		{"another offset", broken(saves.StateName, edited(`"offset": 0`, `"offset": 1`)), l, same,
			"state.json: sha256 "},
		{"another step, unsigned", broken(saves.StateName, stateOf(func(st *state) { st.Step = 3 })), l, same,
			"it is of step 3, in the folder of step 2"},
		{"no weights", broken(saves.ModelName, os.Remove), l, same, saves.ModelName},
		{"half the weights", broken(saves.ModelName, cut), l, same, saves.ModelName},
		{"no averages", broken(saves.EMAName, os.Remove), l, same, saves.EMAName},
		{"half the averages", broken(saves.EMAName, cut), l, same, saves.EMAName},
		{"no optimizer", broken(optimizerAlone, os.Remove), l, same, optimizerAlone},
		{"half the optimizer", broken(optimizerAlone, cut), l, same, optimizerAlone},
		{"an optimizer that is none", broken(optimizerAlone, asModel), l, same,
			"optimizer state: optimizer-000-of-001.safetensors holds no step count"},
	} {
		next := small(4)
		c.change(&next)
		out := filepath.Join(t.TempDir(), "checkpoints")
		_, _, err := tryRun(t, context.Background(), next, c.l, out, c.resume, Hooks{})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.resume) {
			t.Errorf("%s: error %v, want one with %q that names the checkpoint", c.what, err, c.want)
		}
		if got := listing(t, out); got != "" {
			t.Errorf("%s: left %q", c.what, got)
		}
	}
	for name, b := range contents(t, good) {
		if !bytes.Equal(b, was[name]) {
			t.Errorf("%s changed while it was read", name)
		}
	}
	// What does not change the stream may change: the learning rate, the length.
	next := small(3)
	next.LR = 1e-4
	if result, records := run(t, next, l, dir, good, Hooks{}); result.Step != 3 || len(records) != 1 ||
		records[0].LR != 1e-4 {
		t.Errorf("result %+v, records %+v", result, records)
	}
	// A run that is done already does nothing.
	if result, records := run(t, small(2), l, dir, good, Hooks{}); result.Step != 2 || result.Checkpoint != good ||
		len(records) != 0 {
		t.Errorf("result %+v, records %+v", result, records)
	}
}

// signAnew gives the state of a checkpoint the checksums of its files as they are now. With a change it has none of
// its own, as those of older versions.
func signAnew(dir string, change func(*state)) error {
	st, err := readState(dir)
	if err != nil {
		return err
	}
	for i := range st.Files {
		if st.Files[i], err = saves.Describe(dir, st.Files[i].Name); err != nil {
			return err
		}
	}
	text, err := st.text()
	if change != nil {
		change(&st)
		text, err = json.Marshal(st)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, saves.StateName), text, 0o666)
}

// The step of a state is that of the averages too, where neither a checksum nor the name of the folder tells.
func TestStepOfTheAverages(t *testing.T) {
	l, dir := synthetic(t, syntheticPlan(20)), t.TempDir()
	first, _ := run(t, small(2), l, dir, "", Hooks{})
	copied := copyDir(t, first.Checkpoint, filepath.Join(t.TempDir(), "good"))
	if err := signAnew(copied, func(*state) {}); err != nil {
		t.Fatal(err)
	}
	if step, err := Check(small(4), samples.SetOf(l), 1, copied); step != 2 || err != nil {
		t.Errorf("without a checksum: step %d, %v", step, err)
	}
	if err := signAnew(copied, func(st *state) { st.Step = 3 }); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(small(4), samples.SetOf(l), 1, copied); err == nil || !strings.Contains(err.Error(),
		"state.json is of step 3, ema.safetensors of step 2") {
		t.Errorf("error %v", err)
	}
}

// Whoever goes on from a checkpoint, with or without Check before, compares what it reads.
func TestLoadCompares(t *testing.T) {
	l, cfg, dir := synthetic(t, syntheticPlan(20)), small(4), t.TempDir()
	cfg.CkptEvery = 2
	result, _ := run(t, cfg, l, dir, "", Hooks{})
	for _, name := range checkpointFiles {
		path := filepath.Join(result.Checkpoint, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		was := bytes.Clone(b)
		b[len(b)-3] ^= 1
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		_, _, err = tryRun(t, context.Background(), small(6), l, t.TempDir(), result.Checkpoint, Hooks{})
		if err == nil || !strings.Contains(err.Error(), name) || name != saves.StateName &&
			!strings.HasSuffix(err.Error(), "take an older checkpoint: "+filepath.Join(dir, "0000002")) {
			t.Errorf("%s: error %v", name, err)
		}
		if err := os.WriteFile(path, was, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// A run that was killed while it wrote leaves folders that are no checkpoints; the ones before them
// stand, and the next save clears up.
func TestLeftoversOfAKilledRun(t *testing.T) {
	l, dir := synthetic(t, syntheticPlan(20)), t.TempDir()
	first, _ := run(t, small(2), l, dir, "", Hooks{})
	was := contents(t, first.Checkpoint)
	stale := filepath.Join(dir, ".0000004.tmp-123")
	if err := os.Mkdir(stale, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(stale, saves.ModelName), was[saves.ModelName][:100], 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("0000002", filepath.Join(dir, saves.LatestName+".tmp")); err != nil {
		t.Fatal(err)
	}
	// A whole checkpoint that the link does not yet name, as after a kill between the two renames.
	copyDir(t, first.Checkpoint, filepath.Join(dir, "0000004"))

	run(t, small(4), l, dir, filepath.Join(dir, saves.LatestName), Hooks{})
	straight := t.TempDir()
	want, _ := run(t, small(4), l, straight, "", Hooks{})
	sameCheckpoint(t, "after a kill", filepath.Join(dir, saves.LatestName), want.Checkpoint)
	if got := listing(t, dir); got != "0000002 0000004 latest" {
		t.Errorf("left %q", got)
	}
	for name, b := range contents(t, first.Checkpoint) {
		if !bytes.Equal(b, was[name]) {
			t.Errorf("%s of the earlier checkpoint changed", name)
		}
	}
	if target, err := os.Readlink(filepath.Join(dir, saves.LatestName)); target != "0000004" || err != nil {
		t.Errorf("latest is %q, %v: want a link without a path, so that the run folder can move", target, err)
	}
}

// A save that fails names the step and leaves what was there.
func TestSaveFails(t *testing.T) {
	l, dir := synthetic(t, syntheticPlan(20)), t.TempDir()
	run(t, small(2), l, dir, "", Hooks{})
	// A folder where the link should be cannot be replaced by it.
	if err := os.Remove(filepath.Join(dir, saves.LatestName)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, saves.LatestName, "x"), 0o777); err != nil {
		t.Fatal(err)
	}
	var said []string
	hooks := Hooks{Warn: func(text string) { said = append(said, text) }}
	result, _, err := tryRun(t, context.Background(), small(4), l, dir, "", hooks)
	if err != nil || result.Checkpoint != filepath.Join(dir, "0000004") || len(said) != 1 ||
		!strings.Contains(said[0], "the checkpoint of step 4 is whole, and found without it") {
		t.Errorf("result %+v, error %v, warnings %q", result, err, said)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tryRun(t, context.Background(), small(4), l, filepath.Join(file, "checkpoints"), "",
		Hooks{}); err == nil || !strings.Contains(err.Error(), "save checkpoint") {
		t.Errorf("error %v", err)
	}
	if got := listing(t, dir); strings.Contains(got, "tmp") {
		t.Errorf("left %q", got)
	}
}
