package dit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// trained makes the folder of a checkpoint in dir.
func trained(t *testing.T, dir string, step int) string {
	t.Helper()
	path := filepath.Join(dir, saves.StepName(step))
	f := saves.Folder{Step: step, World: 1}
	for _, name := range []string{saves.ModelName, saves.EMAName, saves.OptimizerName(0, 1)} {
		saved(t, filepath.Join(path, name), uint64(step))
		file, err := saves.Describe(path, name)
		if err != nil {
			t.Fatal(err)
		}
		f.Files = append(f.Files, file)
	}
	text, err := disk.MarshalSealed(f)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(path, saves.StateName), string(text))
	return path
}

// Weights with another bit than those that training wrote are not loaded, adapted or converted, whatever name the
// user has for them.
func TestSignedWeights(t *testing.T) {
	run := t.TempDir()
	dir := filepath.Join(run, "checkpoints")
	older, newer := trained(t, dir, 1), trained(t, dir, 2)
	if err := os.Symlink("0000002", filepath.Join(dir, "latest")); err != nil {
		t.Fatal(err)
	}
	uses := func(path string) map[string]error {
		errs := map[string]error{}
		torchtest.Run(t, func(s *torch.Scope) error {
			m, _, err := Open(s, path)
			if errs["open"] = err; err == nil {
				nn.Close(m)
			}
			return nil
		})
		w, err := Read(path, "")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if w.Signed() != saves.StateName {
			t.Errorf("%s is signed by %q", path, w.Signed())
		}
		out := t.TempDir()
		errs["official"] = w.SaveOfficial(filepath.Join(out, "a.pt"))
		errs["ditrun"] = w.Save(filepath.Join(out, "a.safetensors"))
		errs["diffusers"] = w.SaveDiffusers(filepath.Join(out, "a"))
		on := false
		if _, err := w.Adapt(Changes{LearnSigma: &on}); err != nil {
			t.Fatal(err)
		}
		errs["adapted"] = w.Verify()
		return errs
	}
	for what, err := range uses(run) {
		if err != nil {
			t.Errorf("%s of whole weights: %v", what, err)
		}
	}
	file := filepath.Join(newer, saves.EMAName)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-7] ^= 4
	writeFile(t, file, string(b))
	for _, path := range []string{run, dir, newer, file} {
		for what, err := range uses(path) {
			if err == nil || strings.Count(err.Error(), saves.EMAName) != 1 || !strings.HasSuffix(err.Error(),
				"when it was written (state.json): damaged: take an older checkpoint: "+older) {
				t.Errorf("%s of %s: error %v", what, path, err)
			}
		}
	}
}

// A run whose link `latest` is gone, or became a folder when it was copied, is read at its newest checkpoint.
func TestRunWithoutLatest(t *testing.T) {
	run := t.TempDir()
	dir := filepath.Join(run, "checkpoints")
	first, second := trained(t, dir, 1), trained(t, dir, 2)
	latest := filepath.Join(dir, "latest")
	read := func(path, want, note string) {
		t.Helper()
		w, err := Read(path, "")
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		if notes := strings.Join(w.Notes, "; "); w.Path != filepath.Join(want, saves.EMAName) ||
			!strings.Contains(notes, note) || note == "" && notes != "" {
			t.Errorf("%s is read as %s, notes %q, want %s, %q", path, w.Path, notes, want, note)
		}
	}
	const using = "0000002, the newest whole checkpoint: "
	for _, path := range []string{run, dir, latest} {
		read(path, second, using+"there is no latest")
	}
	if err := os.CopyFS(latest, os.DirFS(first)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{run, dir, latest} {
		read(path, second, using+"latest is a folder, not a link")
	}
	if err := os.RemoveAll(latest); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("0000009", latest); err != nil {
		t.Fatal(err)
	}
	read(run, second, using+"latest leads to 0000009")
	os.Remove(latest)
	if err := os.Symlink("0000001", latest); err != nil {
		t.Fatal(err)
	}
	read(run, latest, "")
}
