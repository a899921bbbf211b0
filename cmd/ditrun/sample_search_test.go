package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// says wants texts in what a command prints, however its lines are broken.
func (o outcome) says(t *testing.T, texts ...string) {
	t.Helper()
	all := strings.Join(strings.Fields(o.stdout), " ")
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("no %q in\n%s%s", text, o.stdout, o.stderr)
		}
	}
}

// A schedule is searched, kept beside the checkpoint and drawn with; the picture says the times themselves.
func TestSearchSteps(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	sample := func(more ...string) []string {
		return append([]string{"sample", "--ckpt", r.run, "--vae", r.vae, "--cfg-scale", "2"}, more...)
	}
	o := mustRun(t, sample("--search-steps", "3", "--num-sampling-steps", "12")...)
	o.says(t, "recipe 12 steps of dpm++2m on linspace, guidance 2 on 3 of 4 channels, seed 0",
		"found 3 steps of dpm++2m with guidance 2 on 3 channels: times ", "as many steps on linspace ",
		".schedules.json; --timesteps searched draws with it")
	out := in("a.png")
	o = mustRun(t, sample("--timesteps", "searched", "--out", out)...)
	found := regexp.MustCompile(`recipe 3 steps of dpm\+\+2m at ([0-9]+,[0-9]+,[0-9]+), `).FindStringSubmatch(
		strings.Join(strings.Fields(o.stdout), " "))
	if found == nil {
		t.Fatalf("no times in\n%s", o.stdout)
	}
	png, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(png), "--timesteps "+found[1]) {
		t.Errorf("the picture does not say the times %s, error %v", found[1], err)
	}
	again := in("b.png")
	mustRun(t, sample("--solver", "dpm++2m", "--timesteps", found[1], "--out", again)...)
	if other, err := os.ReadFile(again); err != nil || string(other) != string(png) {
		t.Errorf("the times that the picture says draw another one, error %v", err)
	}

	ditrun(t, sample("--timesteps", "searched", "--solver", "unipc2")...).refused(t, 2, "--timesteps searched: none "+
		"was searched for steps of unipc2 with guidance 2 on 3 channels; there are 3 steps of dpm++2m with guidance 2",
		"the same command with --search-steps and a number of steps")
	ditrun(t, sample("--search-steps", "3", "--out", out)...).refused(t, 2, "--out: --search-steps draws no pictures")
	file, err := filepath.Glob(filepath.Join(r.run, "checkpoints", "*", "*.schedules.json"))
	if err != nil || len(file) == 0 { // one, also by the name latest
		t.Fatalf("files of schedules: %q, error %v", file, err)
	}
	write(t, file[0], []byte("{"))
	for _, args := range [][]string{{"--search-steps", "3"}, {"--timesteps", "searched", "--out", out}} {
		o = ditrun(t, sample(args...)...)
		o.refused(t, 1, "ditrun: error: "+r.run, "ema.schedules.json: unexpected end of JSON input",
			"hint: remove or mend the file; --search-steps N finds the times that it held again")
	}
	if err := os.Remove(file[0]); err != nil {
		t.Fatal(err)
	}
	ditrun(t, sample("--search-steps", "1")...).refused(t, 2, "--search-steps 1: want at least 2")
	for _, args := range [][]string{{"--search-steps", "3"}, {"--timesteps", "searched"}} {
		ditrun(t, sample(append(args, "--negative-prompt", "blur")...)...).refused(t, 2,
			"--negative-prompt: schedules are searched and drawn with the empty one: want none with "+
				"--search-steps and --timesteps searched")
	}
	ditrun(t, sample("--search-steps", "3", "--timesteps", "searched")...).refused(t, 2, "--timesteps searched: "+
		"--search-steps finds them, from the grid of a long run")
	ditrun(t, sample("--search-steps", "3", "--solver", "ddpm")...).refused(t, 2, "--solver ddpm: it adds noise, so "+
		"no two runs of it can be compared: want one without, such as dpm++2m")
}

// Guidance by another checkpoint and SDEs of other forms say so and draw something else.
func TestSampleGuidanceAndSDE(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	pictures := map[string]string{}
	draw := func(name string, args ...string) outcome {
		t.Helper()
		out := in(strings.TrimPrefix(name, "guided: ") + ".npz")
		o := mustRun(t, append(args, "--num-sampling-steps", "4", "--out", out)...)
		pixels := string(read(t, out))
		if same, ok := pictures[pixels]; ok && !strings.HasPrefix(name, "guided") { // the model hardly has conditions
			t.Errorf("%s draws what %s draws", name, same)
		}
		pictures[pixels] = name
		return o
	}
	plain := []string{"sample", "--ckpt", r.run, "--vae", r.vae, "--cfg-scale", "3", "--cfg-channels", "all"}
	with := func(more ...string) []string { return append(plain[:len(plain):len(plain)], more...) }
	draw("plain", plain...)
	draw("guided: rescaled", with("--guidance-rescale", "0.7")...).says(t,
		"guidance 3 on all channels, rescaled by 0.7, seed 0")
	draw("guided: rescaled at times", with("--guidance-rescale", "0.7", "--guidance-interval", "0,990")...).says(t,
		"guidance 3 on all channels from 0 to 990, rescaled by 0.7, seed 0")

	sit := in("SiT-tiny.pt")
	mustRun(t, "convert", "--ckpt", r.run, "--to", "official", "--out", sit)
	ours := in("ours.safetensors")
	mustRun(t, "convert", "--ckpt", sit, "--model", r.model(t), "--to", "ditrun", "--out", ours)
	flow := []string{"sample", "--ckpt", ours, "--vae", r.vae, "--cfg-scale", "2"}
	sde := func(more ...string) []string { return append(flow[:len(flow):len(flow)], more...) }
	draw("sde", flow...)
	draw("form", sde("--diffusion-form", "constant")...).says(t, "4 steps of sde-euler on linspace (form constant), ")
	draw("norm", sde("--diffusion-form", "linear", "--diffusion-norm", "0.5")...).says(t, "(form linear, norm 0.5), ")
	draw("last", sde("--last-step", "None")...).says(t, "(last step None), ")
	draw("size", sde("--last-step-size", "0.3")...).says(t, "(last step of 0.3), ")
	draw("both", sde("--last-step", "Euler", "--last-step-size", "0.3")...).says(t,
		"(last step Euler, last step of 0.3), ")
	draw("guided: interval", sde("--guidance-interval", "0.3,1")...).says(t, "from 0.3 to 1, data at 1, seed 0")

	ditrun(t, sde("--diffusion-form", "SBDM")...).refused(t, 2, "--solver sde-euler: diffusion form SBDM divides by "+
		"zero at time 0 of path linear, where alpha is 0: begin 0.001 from it")
	ditrun(t, sde("--diffusion-form", "linear", "--solver", "heun")...).refused(t, 2, "--diffusion-form and last-step "+
		"are for SDEs: solver heun follows none")
	ditrun(t, with("--last-step", "Mean")...).refused(t, 2, "solver ddpm follows none")
	ditrun(t, sde("--last-step", "None", "--last-step-size", "0.1")...).refused(t, 2, "there is no last step")
	ditrun(t, sde("--last-step-size", "0")...).refused(t, 2, "--last-step-size 0: want a part of the time")
	ditrun(t, sde("--diffusion-norm", "-1")...).refused(t, 2, "--diffusion-norm -1: want a positive number")
	ditrun(t, sde("--diffusion-norm", "inf")...).refused(t, 2, "--diffusion-norm +Inf: want a positive number, and a "+
		"finite one")
	ditrun(t, with("--guidance-rescale", "2")...).refused(t, 2, "--guidance-rescale 2: want 0 (none) to 1")
	ditrun(t, "sample", "--ckpt", r.run, "--cfg-scale", "1", "--guidance-rescale", "0.5").refused(t, 2,
		"--guidance-rescale 0.5: has no effect without guidance, cfg-scale 1")
	ditrun(t, "sample", "--ckpt", r.run, "--cfg-scale", "1", "--guide-ckpt", r.run).refused(t, 2,
		"--guide-ckpt: has no effect without guidance, --cfg-scale 1")
	ditrun(t, with("--guide-ckpt", ours)...).refused(t, 1, "guide "+ours+" predicts velocity on the linear path")
	ditrun(t, with("--guide-ckpt", in("none"))...).refused(t, 1, in("none"))
	ditrun(t, with("--solver", "ddim", "--sampler", "ddim")...).refused(t, 2,
		"are two names of one flag: give one of them")
}

// An average leads away from an earlier one of its run.
func TestSampleAwayFromCheckpoint(t *testing.T) {
	r := theRoad(t)
	out := filepath.Join(t.TempDir(), "a.png")
	o := mustRun(t, "sample", "--ckpt", r.run, "--vae", r.vae, "--guide-ckpt", r.run, "--cfg-scale", "2",
		"--num-sampling-steps", "3", "--out", out)
	o.says(t, "guide DiT", "guidance 2 on all channels, seed 0")
	if png := string(read(t, out)); !strings.Contains(png, "--guide-ckpt ") || !strings.Contains(png, "Guide: ") {
		t.Error("the picture does not say its guide")
	}
	// It is drawn again with the weights of that guide, or not at all.
	run := filepath.Join(t.TempDir(), "run")
	mustRun(t, r.train("--run-dir", run, "--max-steps", "8", "--ckpt-every", "6")...)
	again := filepath.Join(t.TempDir(), "again.png")
	from := []string{"sample", "--from", out, "--out", again, "--ckpt", r.run, "--vae", r.vae}
	mustRun(t, append(from, "--guide-ckpt", run)...).says(t, "guide "+filepath.Join(run, "checkpoints", "0000006")+
		" has the weights of ")
	if pixelsDiffer(t, out, again) != 0 {
		t.Error("with the guide of another run it is another picture")
	}
	later := filepath.Join(run, "checkpoints", "0000008")
	o = ditrun(t, append(from, "--guide-ckpt", filepath.Join(later, "ema.safetensors"))...)
	if o.code != 0 || !strings.Contains(o.stderr, "was drawn with other weights (sha256 ") {
		t.Errorf("code %d\n%s", o.code, o.stderr)
	}
	t.Chdir(t.TempDir())
	ditrun(t, from...).refused(t, 1, "the checkpoint ", "is not there",
		"hint: --guide-ckpt PATH says where the weights ")
}

// Files of --save-latents are inspected as what they are.
func TestInspectSavedLatents(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	saved := filepath.Join(dir, "a.safetensors")
	mustRun(t, "sample", "--ckpt", r.run, "--vae", r.vae, "--num-sampling-steps", "2", "--save-latents", saved, "--out",
		filepath.Join(dir, "a.png"))
	mustRun(t, "inspect", saved).says(t, "scaled latents of ", "from `ditrun sample --save-latents`, 4x",
		"scaling factor ")
}
