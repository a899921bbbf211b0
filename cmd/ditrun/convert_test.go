package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// official opens what convert wrote and returns its tensors by name.
func official(t *testing.T, path, model string) map[string]string {
	t.Helper()
	w, err := dit.Read(path, model)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	out := map[string]string{}
	for _, info := range w.Tensors() {
		data, err := checkpoint.Read(w, info.Name)
		if err != nil {
			t.Fatal(err)
		}
		out[info.Name] = string(data)
	}
	return out
}

// The run's weights come back byte for byte from the forms of the other programs, and the pictures too.
func TestConvertThereAndBack(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	model := r.model(t)
	want := official(t, r.run, "")

	mustRun(t, "convert", "--ckpt", r.run, "--to", "official", "--out", in("a.pt"))
	mustRun(t, "convert", "--ckpt", in("a.pt"), "--model", model, "--to", "ditrun", "--out", in("b.safetensors"))
	o := mustRun(t, "convert", "--ckpt", r.run, "--to", "diffusers", "--vae", r.vae, "--out", in("pipeline"))
	notes := strings.Join(strings.Fields(o.stdout), " ") // they are folded
	if !strings.Contains(notes, "positions are left out") ||
		!strings.Contains(notes, "DiTPipeline's null class is 1000") {
		t.Errorf("what a diffusers folder cannot hold is not said:\n%s", o.stdout)
	}
	mustRun(t, "convert", "--ckpt", in("pipeline"), "--to", "official", "--out", in("c.pt"))
	for _, name := range []string{"a.pt", "b.safetensors", "pipeline", "c.pt"} {
		got := official(t, in(name), model)
		for tensor, data := range want {
			regenerated := tensor == "pos_embed" && (name == "pipeline" || name == "c.pt")
			if got[tensor] != data && !regenerated {
				t.Errorf("%s: %s differs", name, tensor)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d tensors, want %d", name, len(got), len(want))
		}
	}
	equalFiles(t, r.vae, filepath.Join(in("pipeline"), "vae"), vaeWeights)
	if left := list(t, dir); slices.ContainsFunc(left,
		func(name string) bool { return strings.Contains(name, ".tmp") }) {
		t.Errorf("left behind: %q", left)
	}

	// A pipeline brings its autoencoder and the names of the classes.
	mustRun(t, "sample", "--ckpt", in("pipeline"), "--out", in("pipeline.npz"), "--num-sampling-steps", "3")
	mustRun(t, "sample", "--ckpt", r.run, "--vae", r.vae, "--out", in("run.npz"), "--num-sampling-steps", "3")
	equalFiles(t, dir, dir, "run.npz")
	if string(read(t, in("pipeline.npz"))) != string(read(t, in("run.npz"))) {
		t.Error("the pipeline gives other pictures than the run")
	}
	ditrun(t, "sample", "--ckpt", in("a.pt"), "--model", model, "--out", in("x.png")).refused(t, 1, "no autoencoder",
		"ditrun fetch sd-vae-ft-ema")
}

func TestConvertChanges(t *testing.T) {
	r := theRoad(t)
	out := filepath.Join(t.TempDir(), "x.safetensors")
	o := mustRun(t, "convert", "--json", "--ckpt", r.run, "--to", "ditrun", "--num-classes", "7", "--image-size", "16",
		"--learn-sigma", "false", "--timestep-frequency-shift", "1", "--out", out)
	var result struct{ Notes []string }
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil {
		t.Fatal(err)
	}
	said := strings.Join(result.Notes, "\n")
	for _, want := range []string{"7 classes instead of 4: all drawn anew, the null class kept", "positions computed",
		"variance channels dropped", "arithmetic of diffusers"} {
		if !strings.Contains(said, want) {
			t.Errorf("notes %q do not say %q", said, want)
		}
	}
	w, err := dit.Read(out, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if c := w.Config; c.NumClasses != 7 || w.ImageSize != 16 || c.LearnSigma || c.TimestepFrequencyShift != 1 {
		t.Errorf("%+v", w.Info)
	}
}

func TestConvertRefuses(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "full", "x"), []byte("x"))
	alone := filepath.Join(t.TempDir(), "ema.safetensors") // of no run, which would bring its autoencoder
	write(t, alone, read(t, filepath.Join(r.run, "checkpoints/0000006/ema.safetensors")))
	unchanged(t, func() {
		for _, c := range []struct {
			args  []string
			code  int
			texts []string
		}{
			{[]string{"--ckpt", alone, "--to", "diffusers", "--out", filepath.Join(dir, "p")}, 2,
				[]string{"--vae", "its latents were made by vae (sha256 "}},
			{[]string{"--to", "diffusers", "--vae", r.run, "--out", filepath.Join(dir, "p")}, 1, []string{"open VAE"}},
			{[]string{"--to", "diffusers", "--vae", r.vae, "--out", filepath.Join(dir, "full")}, 1,
				[]string{"not empty"}},
			{[]string{"--to", "official", "--out", filepath.Join(dir, "none", "x.pt")}, 1, []string{"does not exist"}},
			{[]string{"--to", "official", "--image-size", "9", "--out", filepath.Join(dir, "x.pt")}, 2,
				[]string{"--image-size 9"}},
			{[]string{"--to", "official", "--learn-sigma", "maybe", "--out", filepath.Join(dir, "x.pt")}, 2,
				[]string{"--learn-sigma"}},
			{[]string{"--to", "official", "--timestep-frequency-shift", "2", "--out", filepath.Join(dir, "x.pt")}, 2,
				[]string{"--timestep-frequency-shift"}},
		} {
			ditrun(t, append([]string{"convert", "--ckpt", r.run}, c.args...)...).refused(t, c.code, c.texts...)
		}
	}, dir)
}

// A .pt does not say on what its model was trained: one that would be taken for another is not written.
func TestConvertKeepsProcess(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for i, c := range []struct{ flags, said string }{
		{"--objective velocity", ""},
		{"--objective noise --path vp", "predicts noise on the VP path, noise at 0, data at 1"},
		{"--objective velocity --time-shift 0.3", "data at 1, shift 0.3, and a .pt"},
	} {
		run := in(fmt.Sprint("run", i))
		mustRun(t, append([]string{"train", "--data", r.latents, "--model", "DiT-16x1x2/2", "--max-steps", "1",
			"--global-batch-size", "16", "--run-dir", run}, strings.Fields(c.flags)...)...)
		convert := func(name string) outcome {
			return ditrun(t, "convert", "--ckpt", run, "--to", "official", "--out", in(name))
		}
		if c.said == "" {
			convert("plain.pt").refused(t, 1, "is taken for one that predicts noise at DiT's 1000 steps",
				"call it SiT-plain.pt")
			if o := convert("SiT-plain.pt"); o.code != 0 {
				t.Errorf("%s: code %d: %s", c.flags, o.code, o.stderr)
			}
			continue
		}
		convert("SiT-other.pt").refused(t, 1, c.said,
			"is taken for one that predicts velocity on the linear path", "hint: --to ditrun keeps it")
		mustRun(t, "convert", "--ckpt", run, "--to", "ditrun", "--out", in(fmt.Sprint(i, ".safetensors")))
		if o := mustRun(t, "inspect", in(fmt.Sprint(i, ".safetensors"))); !strings.Contains(o.stdout,
			strings.TrimSuffix(c.said, ", and a .pt")) {
			t.Errorf("%s: the process is lost: %s", c.flags, o.stdout)
		}
	}
	if left := list(t, dir); slices.Contains(left, "SiT-other.pt") || slices.Contains(left, "plain.pt") {
		t.Errorf("what was refused is there: %v", left)
	}
}

// Fine-tuning starts from the weights of a file, of whatever form, and says what it changed.
func TestTrainFromWeights(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	pipeline := filepath.Join(dir, "pipeline")
	mustRun(t, "convert", "--ckpt", r.run, "--to", "diffusers", "--vae", r.vae, "--out", pipeline)
	want := official(t, r.run, "")
	args := func(run, from string, more ...string) []string {
		return append([]string{"train", "--data", r.latents, "--init-from", from, "--run-dir", filepath.Join(dir, run),
			"--global-batch-size", "4",
			"--max-steps", "4", "--lr", "1e-30", "--ckpt-every", "4", "--log-every", "4", "--ema-decay", "0.5"},
			more...)
	}
	for run, from := range map[string]string{"a": r.run, "b": pipeline} {
		o := mustRun(t, args(run, from)...)
		if !strings.Contains(o.stdout, "start   "+r.model(t)) {
			t.Errorf("it does not say what it starts from:\n%s", o.stdout)
		}
		got := official(t, filepath.Join(dir, run), "")
		for _, name := range []string{"blocks.0.attn.qkv.weight", "y_embedder.embedding_table.weight",
			"final_layer.linear.bias"} {
			if got[name] != want[name] {
				t.Errorf("from %s: %s is not what it started from", from, name)
			}
		}
		if config := string(read(t, filepath.Join(dir, run, "config.yaml"))); !strings.Contains(config,
			"init-from: "+from) || !strings.Contains(config, "model: "+r.model(t)) {
			t.Errorf("config.yaml does not say where it started:\n%s", config)
		}
	}
	// A run goes on when what it started from is gone; without a checkpoint it does not start.
	if err := os.RemoveAll(pipeline); err != nil {
		t.Fatal(err)
	}
	o := ditrun(t, args("b", pipeline, "--model", r.model(t), "--resume", "auto", "--max-steps", "6")...)
	if o.code != 0 || !strings.Contains(o.stderr, "the run goes on from its checkpoint") ||
		!strings.Contains(o.stdout, "Continuing from step 4") {
		t.Errorf("resumed without its origin: code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	ditrun(t, args("f", pipeline, "--resume", "auto")...).refused(t, 1, "pipeline")
	if _, err := os.Stat(filepath.Join(dir, "f")); err == nil {
		t.Error("a run folder without a start")
	}
	o = ditrun(t, args("c", r.run, "--class-dropout-prob", "0")...)
	if o.code != 0 || !strings.Contains(strings.Join(strings.Fields(o.stdout), " "), "the null class dropped") ||
		!strings.Contains(o.stderr, "warning: the null class is missing") {
		t.Errorf("code %d; it does not say that the null class went:\n%s%s", o.code, o.stdout, o.stderr)
	}
	ditrun(t, args("d", r.run, "--model", "DiT-S/2")...).refused(t, 2, "DiT-S/2")
	if _, err := os.Stat(filepath.Join(dir, "d")); err == nil {
		t.Error("a run folder in spite of the refusal")
	}
	ditrun(t, args("e", filepath.Join(dir, "gone"))...).refused(t, 1, "gone")

	// Weights that know latents of another autoencoder begin a run, with a warning; one that goes on has none.
	other, latents := filepath.Join(dir, "other"), filepath.Join(dir, "latents")
	mustRun(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", other, "--global-seed", "1"},
		vaeFlags)...)
	mustRun(t, "encode-latents", "--data", r.pictures, "--vae", other, "--out", latents)
	for _, more := range [][]string{{"--data", latents}, {"--data", r.pictures, "--vae", other, "--image-size", "8"}} {
		run := fmt.Sprint("g", len(more))
		said := regexp.MustCompile(`ditrun: warning: the .* of ` + more[1] + ` are of another autoencoder \(other, ` +
			`sha256 [0-9a-f]{12}\.\.\.\) than those that --init-from ` + r.run + ` was trained on \(vae, sha256 ` +
			`[0-9a-f]{12}\.\.\.\): the model has to learn them anew\n`)
		o = succeed(t, args(run, r.run, more...)...)
		if n := len(said.FindAllString(o.stderr, -1)); n != 1 {
			t.Errorf("%q: %d warnings of another autoencoder, want one:\n%s", more, n, o.stderr)
		}
		o = succeed(t, args(run, r.run, append(more, "--resume", "auto", "--max-steps", "5")...)...)
		if said.MatchString(o.stderr) {
			t.Errorf("%q: a run that goes on is warned of what it began with:\n%s", more, o.stderr)
		}
	}
}

func TestInspect(t *testing.T) {
	r := theRoad(t)
	o := mustRun(t, "inspect", r.run)
	for _, want := range []string{"found    " + r.model(t), "8-pixel images, 4", "blocks.0.attn.qkv.weight",
		"t_embedder.mlp.*.bias", "x2", "ditrun = {"} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("inspect does not say %q:\n%s", want, o.stdout)
		}
	}
	var in struct {
		Model, Format, Family, SHA256 string
		Params                        int
		Tensors                       []struct{ Name string }
	}
	o = mustRun(t, "inspect", "--json", "--sha256", r.run)
	if err := json.Unmarshal([]byte(o.stdout), &in); err != nil {
		t.Fatal(err)
	}
	if in.Model != r.model(t) || in.Format != "safetensors" || in.Family != dit.Ours || len(in.SHA256) != 64 ||
		len(in.Tensors) < 20 || in.Params < 1000 {
		t.Errorf("%+v", in)
	}
	if o := mustRun(t, "inspect", r.vae); !strings.Contains(o.stdout, "AutoencoderKL (diffusers names, safetensors)") {
		t.Errorf("an autoencoder:\n%s", o.stdout)
	}

	// Names in a file do not reach the terminal as they are.
	evil := filepath.Join(t.TempDir(), "evil.safetensors")
	err := checkpoint.Write(evil,
		[]checkpoint.Tensor{{Info: checkpoint.Info{Name: "a\x1b[2J" + strings.Repeat("b", 500), DType: "U8",
			Shape: []int64{1}}, Data: []byte{1}}},
		map[string]string{"k\x1b]0;x\x07": "v\n\x1b[31m"})
	if err != nil {
		t.Fatal(err)
	}
	o = mustRun(t, "inspect", evil)
	if strings.ContainsAny(o.stdout, "\x1b\x07") || strings.Count(o.stdout, "b") > 300 {
		t.Errorf("what it prints would act on a terminal: %q", o.stdout)
	}
	ditrun(t, "inspect", filepath.Join(t.TempDir(), "none")).refused(t, 1, "none", "no such file")
	text := filepath.Join(t.TempDir(), "text.pt")
	write(t, text, []byte("not a weight file at all"))
	ditrun(t, "inspect", text).refused(t, 1, "text.pt")
}

// model is the name of the sizes of the road's model.
func (r road) model(t *testing.T) string {
	t.Helper()
	w, err := dit.Read(r.run, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.Config.Name()
}
