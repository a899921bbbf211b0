package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/vae"
)

var checkpointFiles = []string{"model.safetensors", "ema.safetensors", "optimizer-000-of-001.safetensors"}

const (
	vaeWeights = vae.WeightsName
	theShard   = "latents-00000-of-00001.safetensors"
)

// TestRoad looks at what the four commands leave.
func TestRoad(t *testing.T) {
	r := theRoad(t)
	for dir, want := range map[string][]string{
		r.vae:     {"SHA256SUMS", "config.json", vaeWeights, "reconstructions.png"},
		r.latents: {theShard, "manifest.json"},
		r.run: {".lock", "checkpoints", "checkpoints/0000004", "checkpoints/0000004/ema.safetensors",
			"checkpoints/0000004/model.safetensors",
			"checkpoints/0000004/optimizer-000-of-001.safetensors", "checkpoints/0000004/state.json",
			"checkpoints/0000006", "checkpoints/0000006/ema.safetensors",
			"checkpoints/0000006/model.safetensors", "checkpoints/0000006/optimizer-000-of-001.safetensors",
			"checkpoints/0000006/state.json", "checkpoints/latest",
			"config.yaml", "events.out.tfevents", "log.jsonl", "log.txt", "loss.png", "run.json", "samples",
			"samples/0000004.png", "samples/0000006.png"},
	} {
		got := list(t, dir)
		for i, name := range got {
			if strings.HasPrefix(name, "events.out.tfevents.") {
				got[i] = "events.out.tfevents" // without time and host
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s holds %q, want %q", filepath.Base(dir), got, want)
		}
	}
	for _, path := range []string{filepath.Join(r.vae, "reconstructions.png"), filepath.Join(r.run, "loss.png"),
		filepath.Join(r.run, "samples/0000006.png")} {
		size(t, path)
	}
	checkLog(t, r.run, 2, 4, 6)
	for _, want := range []string{"image-size: 8\n", "num-classes: 4\n", "flip-prob: 0.5\n", "precision: fp32\n",
		"max-steps: 6\n"} {
		if config := string(read(t, filepath.Join(r.run, "config.yaml"))); !strings.Contains(config, want) {
			t.Errorf("config.yaml lacks %q:\n%s", want, config)
		}
	}
}

// size decodes the picture at path.
func size(t *testing.T, path string) (w, h int) {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(read(t, path)))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return img.Bounds().Dx(), img.Bounds().Dy()
}

// checkLog wants one record in log.jsonl for each of the steps, with finite losses.
func checkLog(t *testing.T, dir string, steps ...int) {
	t.Helper()
	records, err := runs.ReadLog(filepath.Join(dir, "log.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, r := range records {
		got = append(got, r.Step)
		if !(r.Loss > 0 && r.Loss < 100) || r.Seconds <= 0 || r.ImagesPerSecond <= 0 {
			t.Errorf("record %+v", r)
		}
	}
	if !slices.Equal(got, steps) {
		t.Errorf("log.jsonl has steps %d, want %d", got, steps)
	}
}

// TestSameSeed makes everything a second time: every file with numbers in it has the same bytes.
func TestSameSeed(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	again := road{r.pictures, filepath.Join(dir, "vae"), filepath.Join(dir, "latents"), filepath.Join(dir, "run")}
	mustRun(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", again.vae}, vaeFlags)...)
	equalFiles(t, r.vae, again.vae, "config.json", vaeWeights, "reconstructions.png")
	mustRun(t, "encode-latents", "--data", r.pictures, "--vae", again.vae, "--out", again.latents)
	equalFiles(t, r.latents, again.latents, theShard, "manifest.json")

	// config.yaml alone repeats the run, pictures included.
	mustRun(t, "train", "--config", filepath.Join(r.run, "config.yaml"), "--run-dir", again.run)
	equalFiles(t, filepath.Join(r.run, "checkpoints/0000006"), filepath.Join(again.run, "checkpoints/0000006"),
		checkpointFiles...)
	equalFiles(t, r.run, again.run, "samples/0000006.png", "config.yaml")
	var pictures [2][]byte
	for i, x := range []road{r, again} {
		out := filepath.Join(dir, "out.png")
		mustRun(t, x.sample(out, "--seed", "3")...)
		pictures[i] = read(t, out)
	}
	if !bytes.Equal(pictures[0], pictures[1]) {
		t.Error("the same seed gives other pictures")
	}
	out := filepath.Join(dir, "other.png")
	mustRun(t, r.sample(out, "--seed", "4")...)
	if bytes.Equal(pictures[0], read(t, out)) {
		t.Error("another seed gives the same pictures")
	}
}

func TestSampleOutputs(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	sheet := filepath.Join(dir, "sheet.png")
	o := mustRun(t, r.sample(sheet, "--num-samples", "8")...)
	if !strings.Contains(o.stdout, "model   DiT-16x1x2/2 after 6 steps (ditrun, safetensors), 8-pixel images, 4\n"+
		"        classes, vae with scaling factor ") ||
		!strings.HasSuffix(o.stdout, "written to "+sheet+"\n") {
		t.Errorf("printed\n%s", o.stdout)
	}
	if w, h := size(t, sheet); h <= w {
		t.Errorf("two pictures each of four classes on a sheet of %d x %d, want a class a row", w, h)
	}

	folder := filepath.Join(dir, "folder")
	mustRun(t, r.sample(folder, "--class-labels", "Valley,1", "--num-samples", "3")...)
	if got := list(t, folder); !slices.Equal(got, []string{"000000.png", "000001.png", "000002.png", "labels.csv"}) {
		t.Errorf("the folder holds %q", got)
	}
	if got := string(read(t,
		filepath.Join(folder,
			"labels.csv"))); got != "file,label,class\n000000.png,3,valley\n000001.png,3,valley\n000002.png,1,slope\n" {
		t.Errorf("labels.csv is\n%s", got)
	}
	if w, h := size(t, filepath.Join(folder, "000002.png")); w != 8 || h != 8 {
		t.Errorf("a picture of %d x %d, want 8 x 8", w, h)
	}

	npz, latents := filepath.Join(dir, "all.npz"), filepath.Join(dir, "all.safetensors")
	o = mustRun(t, r.sample(npz, "--num-samples", "5", "--cfg-scale", "1", "--save-latents", latents, "--json")...)
	var result map[string]any
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil {
		t.Fatalf("%v in %q", err, o.stdout)
	}
	if result["num_samples"] != 5.0 || result["out"] != npz || result["latents"] != latents ||
		result["model"] != "DiT-16x1x2/2" {
		t.Errorf("result %v", result)
	}
	z, err := zip.OpenReader(npz)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if len(z.File) != 2 || z.File[0].Name != "arr_0.npy" || z.File[1].Name != "arr_1.npy" ||
		z.File[0].UncompressedSize64 != 128+5*8*8*3 {
		t.Errorf("the archive holds %d files, the first %+v", len(z.File), z.File[0].FileHeader)
	}

	// The noise of a picture does not depend on the batch it is in.
	one, many := filepath.Join(dir, "one"), filepath.Join(dir, "many")
	mustRun(t, r.sample(one, "--batch-size", "1", "--quiet")...)
	mustRun(t, r.sample(many, "--batch-size", "4")...)
	a, b := read(t, filepath.Join(one, "000003.png")), read(t, filepath.Join(many, "000003.png"))
	pa, _ := png.Decode(bytes.NewReader(a))
	pb, _ := png.Decode(bytes.NewReader(b))
	for y := range 8 {
		for x := range 8 {
			ra, ga, ba, _ := pa.At(x, y).RGBA()
			rb, gb, bb, _ := pb.At(x, y).RGBA()
			for _, d := range []int{int(ra>>8) - int(rb>>8), int(ga>>8) - int(gb>>8), int(ba>>8) - int(bb>>8)} {
				if d < -1 || d > 1 {
					t.Fatalf("pixel %d,%d differs by %d between batch sizes", x, y, d)
				}
			}
		}
	}
}

// TestQuietAndJSON: each command is silent with --quiet and prints one object with --json.
func TestQuietAndJSON(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"vae": slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", filepath.Join(dir, "v")},
			vaeFlags),
		"latents": {"encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", filepath.Join(dir, "l")},
		"train":   r.train("--results-dir", filepath.Join(dir, "results"), "--max-steps", "2"),
		"sample":  r.sample(filepath.Join(dir, "s.png")),
	} {
		o := mustRun(t, append(args, "--quiet")...)
		if o.stdout+o.stderr != "" {
			t.Errorf("%s --quiet prints %q, errors %q", name, o.stdout, o.stderr)
		}
		os.RemoveAll(filepath.Join(dir, "v")) // train-vae does not write over a model
		o = mustRun(t, append(args, "--json")...)
		var result map[string]any
		if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || result["seconds"] == nil || o.stderr == "" {
			t.Errorf("%s --json prints %q (%v), the account is %q", name, o.stdout, err, o.stderr)
		}
	}
	if got := list(t, filepath.Join(dir, "results")); !slices.Contains(got, "000-DiT-16x1x2-2") ||
		!slices.Contains(got, "001-DiT-16x1x2-2") {
		t.Errorf("two runs made %q", got)
	}
}

// TestResumeFinds: auto continues the newest run of the configuration, PATH a checkpoint or run.
func TestResumeFinds(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	whole, results := filepath.Join(dir, "whole"), filepath.Join(dir, "results")
	base := []string{"--max-steps", "12", "--log-every", "3", "--ckpt-every", "4", "--results-dir", results}
	mustRun(t, r.train(append(base, "--run-dir", whole)...)...)
	mustRun(t, r.train(append(base, "--resume", "auto")...)...) // nothing there: a new run
	run := filepath.Join(results, "000-DiT-16x1x2-2")
	checkLog(t, run, 3, 6, 9, 12)
	forget := func(steps ...string) {
		for _, s := range steps {
			os.RemoveAll(filepath.Join(run, "checkpoints", s))
		}
	}
	for _, resume := range []string{"auto", filepath.Join(run, "checkpoints", "0000004"), run} {
		forget("0000008", "0000012", "latest")
		if err := os.Symlink("0000004", filepath.Join(run, "checkpoints", "latest")); err != nil {
			t.Fatal(err)
		}
		o := mustRun(t, r.train(append(base, "--resume", resume, "--json")...)...)
		if !strings.Contains(o.stderr, "Continuing from step 4\n") {
			t.Errorf("--resume %s:\n%s", resume, o.stderr)
		}
		equalFiles(t, filepath.Join(whole, "checkpoints/0000012"), filepath.Join(run, "checkpoints/latest"),
			checkpointFiles...)
		checkLog(t, run, 3, 6, 9, 12)
	}
	// A finished run has nothing left to do, and says so with its last loss.
	o := mustRun(t, r.train(append(base, "--resume", "auto", "--json")...)...)
	var result struct{ Loss float64 }
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || !(result.Loss > 0) {
		t.Errorf("a finished run prints %q", o.stdout)
	}
	// One that was stopped before its first checkpoint begins again in its folder.
	forget("0000004", "0000008", "0000012", "latest")
	mustRun(t, r.train(append(base, "--resume", "auto")...)...)
	equalFiles(t, filepath.Join(whole, "checkpoints/0000012"), filepath.Join(run, "checkpoints/latest"),
		checkpointFiles...)
	checkLog(t, run, 3, 6, 9, 12)
}

// A run goes on by its name alone, wherever the command is given: what is not said is as it was.
func TestResumeByName(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(cwd string, args ...string) string {
		t.Helper()
		cmd := command(t, "", args...)
		cmd.Dir = cwd
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if err := os.Symlink(r.latents, filepath.Join(dir, "latents")); err != nil {
		t.Fatal(err)
	}
	args := slices.Concat([]string{"train", "--data", "latents", "--ckpt-every", "4", "--log-every", "4"}, trainFlags)
	in(dir, append(args, "--max-steps", "8", "--run-dir", "whole")...)
	in(dir, append(args, "--max-steps", "4", "--run-dir", "run")...)
	whole, run := filepath.Join(dir, "whole"), filepath.Join(dir, "run")
	out := in(t.TempDir(), "train", "--resume", run, "--max-steps", "8")
	if !strings.Contains(out, "Continuing from step 4\n") || strings.Contains(out, "other settings") {
		t.Error(out)
	}
	equalFiles(t, filepath.Join(whole, "checkpoints/0000008"), filepath.Join(run, "checkpoints/0000008"),
		checkpointFiles...)
	out = in(t.TempDir(), "train", "--resume", filepath.Join(run, "checkpoints", "latest"), "--max-steps", "9", "--lr",
		"0.5")
	if !strings.Contains(out, "lr 0.001 before, 0.5 now") {
		t.Error(out)
	}
}

// TestResumeWithOtherData: a run of latents does not go on with pictures, nor a run of pictures with latents, nor one
// of classes without them, and the error names both.
func TestResumeWithOtherData(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	latents, pictures := filepath.Join(dir, "latents"), filepath.Join(dir, "pictures")
	mustRun(t, r.train("--run-dir", latents, "--max-steps", "2", "--image-size", "8")...)
	encoding := []string{"train", "--data", r.pictures, "--vae", r.vae, "--image-size", "8"}
	succeed(t, slices.Concat(encoding, []string{"--run-dir", pictures, "--max-steps", "2"}, trainFlags)...)
	warning := regexp.MustCompile(`(?m)^ditrun: warning: pictures are encoded again at every step.*\n`)
	said := func(args ...string) outcome {
		o := ditrun(t, args...)
		o.stderr = warning.ReplaceAllString(o.stderr, "")
		return o
	}
	resume := func(run string, more ...string) outcome {
		return said(append([]string{"train", "--resume", run, "--max-steps", "4"}, more...)...)
	}
	gone := copyOf(t, latents)
	write(t, filepath.Join(gone, "config.yaml"), bytes.Replace(read(t, filepath.Join(gone, "config.yaml")),
		[]byte("vae: "+r.vae), []byte(`vae: ""`), 1))
	unchanged(t, func() {
		resume(latents, "--data", r.pictures).refused(t, 1, "resume "+latents+": it was trained on latents ("+r.latents+
			"), --data "+r.pictures+" holds pictures", "hint: give the latents that it was trained on; --init-from ")
		said(slices.Concat(encoding, []string{"--run-dir", latents, "--resume", "auto", "--max-steps", "4"},
			trainFlags)...).refused(t, 1, "it was trained on latents ("+r.latents+"), --data ")
		resume(gone, "--data", r.pictures).refused(t, 1, "resume "+gone+": it was trained on latents ("+r.latents+
			"), open "+r.pictures+": no manifest.json", "hint: give the latents that it was trained on; --init-from ")
		resume(pictures, "--data", r.latents).refused(t, 1, "resume "+pictures+": it was trained on pictures ("+
			r.pictures+"), --data "+r.latents+" holds latents", "hint: give the pictures that it was trained on")
	}, latents, pictures, gone)

	// Latents of the same pictures without their classes have the hash of those with them.
	flat := filepath.Join(dir, "flat")
	mustRun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", flat, "--unconditional")
	free := filepath.Join(dir, "free")
	mustRun(t, slices.Concat([]string{"train", "--data", flat, "--run-dir", free, "--max-steps", "2"}, trainFlags)...)
	unchanged(t, func() {
		resume(latents, "--data", flat).refused(t, 1, "it was trained on 4 classes, the data in "+flat+" have none")
		for _, c := range []struct{ run, is, asks string }{
			{latents, "class", "--unconditional"}, {latents, "class", "--condition none"},
			{latents, "class", "--condition text"}, {free, "none", "--condition class"},
		} {
			resume(c.run, strings.Fields(c.asks)...).refused(t, 2, "--resume "+c.run+": the run has --condition "+c.is+
				", "+c.asks+" asks for another model", "hint: leave "+c.asks+" out to continue the run; without ")
		}
	}, latents, free)
	mustRun(t, "train", "--resume", free, "--max-steps", "4", "--unconditional")
	mustRun(t, "train", "--resume", latents, "--max-steps", "4", "--condition", "class")
}

// TestShortRunWarns: the paper's average of the weights is still mostly the first random ones after few steps.
func TestShortRunWarns(t *testing.T) {
	r := theRoad(t)
	o := ditrun(t, r.train("--run-dir", filepath.Join(t.TempDir(), "run"), "--max-steps", "2", "--ema-decay",
		"0.9999")...)
	want := "ditrun: warning: ema decay 0.9999: after 2 steps, 100 % of the average are still the first, " +
		"random weights: samples will be noise; --ema-decay 0 fits this run, or --ema-warmup\n"
	if o.code != 0 || o.stderr != want {
		t.Errorf("code %d, errors %q, want %q", o.code, o.stderr, want)
	}
}
