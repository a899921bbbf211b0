package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// prints wants lines in what a command prints, blanks at their beginning included. They may be folded.
func (o outcome) prints(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		var out strings.Builder
		(&env{stdout: &out}).item(strings.TrimSpace(line[:8]), line[8:])
		if !strings.Contains("\n"+o.stdout, "\n"+line+"\n") && !strings.Contains("\n"+o.stdout, "\n"+out.String()) {
			t.Errorf("no line %q in\n%s%s", line, o.stdout, o.stderr)
		}
	}
}

// TestLinesSayWhatIsUsed: what a command prints before its work is what it works with, also where a file or nobody
// said so.
func TestLinesSayWhatIsUsed(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	factor := "scaling factor 3.6637"
	vaeLine := "vae     " + r.vae + ": 2 pixels to one, 4 latent channels, " + factor

	mustRun(t, r.sample(in("a.png"))...).prints(t, "device  cpu (1 thread), fp32", vaeLine,
		"draws   4 pictures of 8x8, all 4 classes",
		"recipe  5 steps of ddpm, guidance 4 on 3 of 4 channels, seed 0")
	mustRun(t, r.sample(in("a.png"), "--class-labels", "3,ramp", "--num-samples", "6", "--cfg-scale", "1", "--sampler",
		"ddim", "--num-sampling-steps", "2,3", "--seed", "7", "--rng", "torch")...).prints(t,
		"draws   6 pictures of 8x8, 2 classes: valley, ramp",
		"recipe  5 steps (2,3) of ddim, no guidance, seed 7 of libtorch's generator")
	mustRun(t, r.sample(in("a.png"), "--cfg-channels", "all")...).prints(t,
		"recipe  5 steps of ddpm, guidance 4 on all channels, seed 0")

	// A file of the original says neither the size of pictures nor the factor: the autoencoder does.
	pt := in("x.pt")
	mustRun(t, "convert", "--ckpt", r.run, "--to", "official", "--out", pt)
	o := mustRun(t, "sample", "--ckpt", pt, "--model", r.model(t), "--vae", r.vae, "--num-sampling-steps", "5", "--out",
		in("a.png"))
	o.prints(t, "model   "+r.model(t)+" (DiT, PyTorch), 8-pixel images, 4 classes, VAE with "+factor, vaeLine)

	// What is drawn where nobody said.
	for classes, want := range map[string]string{
		"1000": "draws   8 pictures of 8x8, classes 207, 360, 387, 974, 88, 979, 417, 279: the eight of DiT's " +
			"sample.py",
		"37": "draws   20 pictures of 8x8, the first 20 of 37 classes: --class-labels all draws all",
	} {
		ckpt := in(classes + ".safetensors")
		mustRun(t, "convert", "--ckpt", r.run, "--to", "ditrun", "--num-classes", classes, "--out", ckpt)
		draw := []string{"sample", "--ckpt", ckpt, "--vae", r.vae, "--num-sampling-steps", "1", "--out", in("a.png")}
		mustRun(t, draw...).prints(t, want)
		if classes == "37" {
			mustRun(t, append(draw, "--num-samples", "74")...).prints(t, "draws   74 pictures of 8x8, all 37 classes")
			mustRun(t, append(draw, "--class-labels", "0-9,20")...).prints(t,
				"draws   11 pictures of 8x8, 11 classes of 37")
		}
	}

	mustRun(t, r.train("--run-dir", in("run"), "--max-steps", "2", "--flip-prob", "0.25", "--class-dropout-prob", "0.2",
		"--global-seed", "3")...).prints(t, "        of 8-pixel pictures, "+factor+", as the latents say",
		"        seed 3, 25 % of the samples mirrored, 20 % of the labels dropped")
	mustRun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", in("latents"), "--flip", "none",
		"--image-size", "8x16").prints(t, "data    "+r.pictures+": 64 pictures in 4 classes, cropped to 8x16 pixels",
		vaeLine)
	o = withFree(t, 58e9, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", in("more"))
	o.prints(t, "data    "+r.pictures+": 64 pictures in 4 classes, cropped to 8 pixels (the autoencoder's size)",
		"latents 4x4x4, two views, fp16, 33.8 kB to make; 58.0 GB are free")
	o = withFree(t, 58e9, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", in("vae"), "--global-seed",
		"4", "--flip-prob", "0"}, vaeFlags)...)
	o.prints(t, "recipe  batch 8, 6 steps, lr 0.002, mse loss, KL weight 0.012, ema 0",
		"        seed 4, 0 % of the pictures mirrored", "        trained in fp32, reconstructions in fp32",
		"saves   each 183 kB, the last one kept; 58.0 GB are free")
}

// TestOneIsSingular: of what there is one of, every command says so.
func TestOneIsSingular(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	tree := writeTree(t, 4)
	write(t, in("pictures/peak/a.png"), read(t, filepath.Join(tree, list(t, tree)[1])))
	plural := regexp.MustCompile(`(?m)(?:^|[ (])1 (?:[a-z-]+ )?(?:[a-z]+s)\b`)
	singular := regexp.MustCompile(` 1 (class|is|has)$`)
	check := func(o outcome) {
		t.Helper()
		for _, found := range plural.FindAllString(o.stdout+o.stderr, -1) {
			if !singular.MatchString(" " + strings.TrimSpace(found)) {
				t.Errorf("%q in\n%s%s", found, o.stdout, o.stderr)
			}
		}
	}
	run := in("run")
	train := []string{"train", "--data", in("latents"), "--model", r.model(t), "--run-dir", run, "--log-every", "1",
		"--ckpt-every", "1", "--keep-last", "2", "--keep-every", "1"}
	for _, args := range [][]string{
		slices.Concat([]string{"train-vae", "--data", in("pictures"), "--out", in("vae")}, vaeFlags,
			[]string{"--batch-size", "1", "--max-steps", "1"}),
		{"encode-latents", "--data", in("pictures"), "--vae", r.vae, "--out", in("latents"), "--flip", "none"},
		append(slices.Clone(train), "--global-batch-size", "1", "--max-steps", "1"),
		append(slices.Clone(train), "--global-batch-size", "1", "--max-steps", "1", "--resume", "auto"),
		{"sample", "--ckpt", run, "--vae", r.vae, "--num-sampling-steps", "1", "--out", in("a.png")},
		{"inspect", run}, {"inspect", in("vae")}, {"inspect", in("latents")}, {"inspect", in("pictures")},
		{"classes", "--data", in("pictures")}, {"doctor", "--no-test"},
	} {
		o := succeed(t, args...)
		check(o)
	}
	o := ditrun(t, slices.Concat(train[:5], []string{"--run-dir", in("other"), "--global-batch-size", "2"})...)
	o.refused(t, 1, "--global-batch-size 2 is larger than the data set of 1 sample\n")
}

// TestScalingFactorIsAssumed: an autoencoder whose configuration names no factor is taken for Stable Diffusion's, and
// the lines say so.
func TestScalingFactorIsAssumed(t *testing.T) {
	r := theRoad(t)
	path := filepath.Join(copyOf(t, r.vae), "config.json")
	var config map[string]any
	if err := json.Unmarshal(read(t, path), &config); err != nil {
		t.Fatal(err)
	}
	delete(config, "scaling_factor")
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, text)
	// The sums beside the model are of the file before.
	if err := os.RemoveAll(filepath.Join(filepath.Dir(path), "SHA256SUMS")); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "encode-latents", "--data", r.pictures, "--vae", filepath.Dir(path), "--out",
		filepath.Join(t.TempDir(), "latents")).prints(t,
		"vae     "+filepath.Dir(path)+": 2 pixels to one, 4 latent channels, scaling factor 0.18215",
		"        config.json names no scaling factor: Stable Diffusion's is taken")
}
