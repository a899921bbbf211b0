package training

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/nn"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// originalFile is what the training script of the original saves after three steps of a tiny model.
const originalFile = goldens + "resume/0000003.pt"

// ofOriginal is a run of its model on the synthetic latents, up to the given step.
func ofOriginal(steps int) Config {
	cfg := small(steps)
	cfg.Model.Depth = 1
	cfg.LR, cfg.EMADecay = 1e-3, 0.9
	return cfg
}

// Three steps from the original's checkpoint are those that PyTorch makes from it.
func TestOriginalGoesOnAsInPyTorch(t *testing.T) {
	g := torchtest.Open(t, goldens+"resume.safetensors")
	noGradient := map[string][]int{}
	g.Config("no_gradient", &noGradient)
	cfg := ofOriginal(10)
	torchtest.Run(t, func(s *torch.Scope) error {
		r, err := newRunner(s, Job{Config: cfg, Source: noSource{}})
		if err != nil {
			return err
		}
		t.Cleanup(r.close)
		if err := r.load(s, originalFile); err != nil {
			return err
		}
		if r.step != 3 || r.saved != 0 || r.result.Checkpoint != originalFile {
			t.Errorf("step %d, saved %d, from %s", r.step, r.saved, r.result.Checkpoint)
		}
		terms := train(t, s, r, g, 3, sourceOf{inOrder, inOrder, inOrder})
		s = s.NoGrad()
		for i, name := range map[int]string{0: "losses", 3: "grad_norms"} {
			if e := torchtest.Relative(s, torch.From(s, terms[i], 3), g.Tensor(s, name)); !(e <= 2e-6) {
				t.Errorf("%s: relative error %.2g", name, e)
			}
		}
		worst := 0.0
		for prefix, params := range map[string][]nn.Param{"final.": nn.List(r.model), "ema.": r.opt.EMA(s)} {
			for _, p := range params {
				e := difference(s, p.Tensor, g.Tensor(s, prefix+p.Name), noGradient[p.Name])
				if worst = max(worst, e); !(e <= 1e-5) {
					t.Errorf("%s%s: relative error %.2g", prefix, p.Name, e)
				}
			}
		}
		t.Logf("largest relative error %.2g", worst)
		return nil
	})
}

// A run that goes on from the original's checkpoint has one of its own at once, holds there what the file holds, and
// comes to the same weights on one and on two processes, also where it was stopped and continued.
func TestOriginalOnProcesses(t *testing.T) {
	one := newTask(t, 8)
	one.From = originalFile
	one.Config.Model.Depth = 1
	want := records(one.finish(t, 1))
	if len(want) != 5 || want[0].Step != 4 {
		t.Fatalf("%d records, the first of step %d: want 5 from step 4 on", len(want), want[0].Step)
	}
	if got := listing(t, one.Dir); got != "0000003 0000008 latest" {
		t.Errorf("left %q", got)
	}
	file, err := checkpoint.Open(originalFile)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	two := one.in(t)
	two.finish(t, 2)
	for _, dir := range []string{one.Dir, two.Dir} {
		for name, section := range map[string]string{saves.ModelName: "model.", saves.EMAName: "ema."} {
			saved := open(t, filepath.Join(dir, "0000003", name))
			for _, info := range saved.Tensors() {
				got, err := saved.Read(info.Name)
				if err != nil {
					t.Fatal(err)
				}
				if was, err := file.Read(section + info.Name); err != nil || !bytes.Equal(got, was) {
					t.Errorf("%s: %s is not that of the file (%v)", name, info.Name, err)
				}
			}
		}
	}
	for _, file := range []string{saves.ModelName, saves.EMAName} {
		sameWeights(t, "two processes", filepath.Join(two.Dir, saves.LatestName, file),
			filepath.Join(one.Dir, saves.LatestName,
				file), 1e-4)
	}
	stopped := one.in(t)
	stopped.Config.MaxSteps = 5
	got := records(stopped.finish(t, 2))
	stopped.Config.MaxSteps, stopped.From = 8, ""
	got = append(got, records(stopped.finish(t, 1))...)
	for i, w := range want {
		if len(got) != len(want) || math.Abs(got[i].Loss-w.Loss) > 1e-5*w.Loss {
			t.Fatalf("stopped and continued: %d records; step %d: loss %v, want %v", len(got), w.Step, got[i].Loss,
				w.Loss)
		}
	}
}

// The state is the same in other forms: an old stream, wrapped names, an optimizer of the trained parameters alone.
func TestFormsOfTheOriginal(t *testing.T) {
	l := synthetic(t, syntheticPlan(20))
	var forms []*dit.Training
	for _, path := range []string{originalFile, goldens + "resume/older.pt"} {
		training, err := openOriginal(path, ofOriginal(4), samples.SetOf(l))
		if err != nil {
			t.Fatal(err)
		}
		defer training.Close()
		forms = append(forms, training)
	}
	if forms[0].Step != 3 || forms[1].Step != 3 {
		t.Errorf("steps %d and %d, want 3", forms[0].Step, forms[1].Step)
	}
	for i, pair := range [][2]checkpoint.Source{{forms[0].Source, forms[1].Source}, {forms[0].Trained,
		forms[1].Trained},
		{forms[0].Optimizer, forms[1].Optimizer}} {
		if n, m := len(pair[0].Tensors()), len(pair[1].Tensors()); n != m || n < 21 {
			t.Errorf("part %d: %d and %d tensors", i, n, m)
		}
		for _, info := range pair[0].Tensors() {
			a, err := checkpoint.Read(pair[0], info.Name)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := checkpoint.Read(pair[1], info.Name); err != nil || !bytes.Equal(a, b) {
				t.Errorf("%s differs (%v)", info.Name, err)
			}
		}
	}
}

func TestOriginalRefused(t *testing.T) {
	l := synthetic(t, syntheticPlan(20))
	text, err := os.ReadFile(originalFile)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := func(name string) []byte { // as the pickle has it
		return append(binary.LittleEndian.AppendUint32([]byte("X"), uint32(len(name))), name...)
	}
	renamed := func(old, new string) string {
		if !bytes.Contains(text, key(old)) {
			t.Fatalf("the file has no key %s", old)
		}
		return write("0000003.pt", bytes.ReplaceAll(text, key(old), key(new)))
	}
	f := open(t, originalFile)
	step, ok := f.Lookup("opt.state.5.step")
	if !ok {
		t.Fatal("the file has no opt.state.5.step")
	}
	patched := func(after, old, new string) string {
		at := bytes.Index(text, key(after))
		from := at + bytes.Index(text[max(at, 0):], []byte(old))
		if at < 0 || from < at || from > at+40 {
			t.Fatalf("the file has no %q after %s", old, after)
		}
		return write("0000003.pt", slices.Concat(text[:from], []byte(new), text[from+len(old):]))
	}
	odd := slices.Clone(text)
	binary.LittleEndian.PutUint32(odd[step.Offset:], math.Float32bits(4))
	weights := func(prefix string, more ...string) string {
		var out []checkpoint.Tensor
		for _, info := range f.Tensors() {
			name, ok := strings.CutPrefix(info.Name, "model.")
			if !ok {
				continue
			}
			data, err := f.Read(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			info.Name = prefix + name
			out = append(out, checkpoint.Tensor{Info: info, Data: data})
		}
		for _, name := range more {
			out = append(out, checkpoint.Tensor{Info: checkpoint.Info{Name: name, DType: checkpoint.F32,
				Shape: []int64{1}},
				Data: make([]byte, 4)})
		}
		path := filepath.Join(t.TempDir(), "DiT.pt")
		if err := checkpoint.WritePyTorch(path, out); err != nil {
			t.Fatal(err)
		}
		return path
	}
	same := func(*Config) {}
	for _, c := range []struct {
		what, file string
		change     func(*Config)
		want       string
		incomplete bool
	}{
		{"another objective", originalFile, func(c *Config) { c.Objective = "velocity" },
			"it was trained on another objective, noise at DiT's 1000 steps, this run is on velocity", false},
		{"another depth", originalFile, func(c *Config) { c.Model.Depth = 2 }, "it holds DiT-24x1x2/2 (", false},
		{"more classes", originalFile, func(c *Config) { c.Model.NumClasses = 10 },
			"3 classes, a null class, latent size 4 of 4 channels, " +
				"8 output channels), this run is DiT-24x1x2/2 (10 classes", false},
		{"no null class", originalFile, func(c *Config) { c.Model.ClassDropoutProb = 0 },
			"(3 classes, no null class", false},
		{"a shorter run", originalFile, func(c *Config) { c.MaxSteps = 2 }, "it is at step 3, this run ends at 2",
			false},
		{"no averages", renamed("ema", "emx"), same, "it holds no ema: want a training checkpoint", true},
		{"no optimizer", renamed("opt", "opx"), same, "it holds no opt: want", true},
		{"another optimizer", renamed("exp_avg_sq", "exp_avg_xx"), same, "missing: opt.state.1.exp_avg_sq", false},
		{"amsgrad", patched("amsgrad", "\x89", "\x88"), same, "its optimizer is AdamW with amsgrad", false},
		{"other numbers", patched("params", "K\x01", "K\x02"), same,
			"its optimizer calls parameter 1 2: want the numbers", false},
		{"no count", renamed("step", "stxp"), same, "its optimizer has no opt.state.1.step", false},
		{"two counts", write("0000003.pt", odd), same, "counts 4 steps of ", false},
		{"released weights", weights(""), same, "it holds no ema, no opt: want", true},
		{"Lightning", weights("state_dict.model.", "optimizer_states.0.state.1.exp_avg"), same,
			"it holds no ema, no opt: want", true},
		{"half a file", write("0000003.pt", text[:len(text)/2]), same, "0000003.pt: ", false},
	} {
		cfg := ofOriginal(4)
		c.change(&cfg)
		_, err := Check(cfg, samples.SetOf(l), 1, c.file)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(),
			"resume from "+c.file) {
			t.Errorf("%s: error %v, want one with %q that names the file", c.what, err, c.want)
		}
		if isNoTraining(err) != c.incomplete {
			t.Errorf("%s: taken for a file of weights alone: %v, want %v", c.what, isNoTraining(err), c.incomplete)
		}
	}
	if _, err := Check(ofOriginal(4), samples.SetOf(l), 1, originalFile); err != nil {
		t.Error(err)
	}
	sit := write("SiT.pt", text)
	if _, err := Check(ofOriginal(4), samples.SetOf(l), 1, sit); err == nil || !strings.Contains(err.Error(),
		"a checkpoint of SiT: only training checkpoints of facebookresearch/DiT are continued") || !isNoTraining(err) {
		t.Errorf("a SiT: error %v, want one that says what is continued", err)
	}
	var missing *dit.NoTrainingError
	w, err := dit.Read(weights(""), "DiT-24x1x2/2")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Training(); !errors.As(err, &missing) || len(missing.Missing) != 2 {
		t.Errorf("released weights: error %v, want one that says what is missing", err)
	}
}

func isNoTraining(err error) bool { return errors.As(err, new(*dit.NoTrainingError)) }

// What the file says of its run is compared with the run that goes on.
func TestOriginalChanges(t *testing.T) {
	l := synthetic(t, syntheticPlan(20))
	cfg := ofOriginal(4)
	got, err := ChangesSince(originalFile, cfg, samples.SetOf(l))
	want := "global-batch-size 16 before, 8 now; global-seed 5 before, 7 now; latents scaled by 0.18215 before, by " +
		"0.5 now"
	if err != nil || strings.Join(got, "; ") != want {
		t.Errorf("changes %q, %v; want %q", got, err, want)
	}
	cfg.LR, cfg.WeightDecay = 2e-3, 0.1
	if got, err = ChangesSince(originalFile, cfg, samples.SetOf(l)); err != nil ||
		!strings.Contains(strings.Join(got, "; "),
			"lr 0.001 before, 0.002 now; weight-decay 0 before, 0.1 now") {
		t.Errorf("changes %q, %v", got, err)
	}
	notes, err := OriginalNotes(originalFile, cfg, samples.SetOf(l))
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], "which has another order of the data") {
		t.Errorf("notes %q, %v", notes, err)
	}
	text, err := os.ReadFile(originalFile)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "0050000.pt")
	if err := os.WriteFile(path, text, 0o666); err != nil {
		t.Fatal(err)
	}
	notes, err = OriginalNotes(path, cfg, samples.SetOf(l))
	if err != nil || len(notes) != 2 || !strings.Contains(notes[1], "is called 0050000, its optimizer counts 3 steps") {
		t.Errorf("notes %q, %v", notes, err)
	}
}
