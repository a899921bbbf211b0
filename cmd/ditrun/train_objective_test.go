package main

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/runs"
)

// TestTrainOnVelocity: a run on a path says so, keeps it in its configuration and its checkpoints, and goes on with it
// alone.
func TestTrainOnVelocity(t *testing.T) {
	r := theRoad(t)
	dir := filepath.Join(t.TempDir(), "run")
	train := func(dir string, more ...string) outcome {
		t.Helper()
		return ditrun(t, append([]string{"train", "--data", r.latents, "--model", "DiT-16x1x2/2", "--max-steps", "2",
			"--global-batch-size", "16", "--log-every", "1", "--run-dir", dir}, more...)...)
	}
	o := train(dir, "--objective", "velocity", "--time-sampling", "logit-normal", "--time-shift", "0.3",
		"--sample-every", "2", "--vae", r.vae)
	if o.code != 0 || !strings.Contains(strings.Join(strings.Fields(o.stdout), " "),
		"velocity on the linear path, noise at 0, data at 1, shift 0.3, logit-normal times") ||
		!strings.Contains(o.stdout, "Saved preview to ") {
		t.Fatalf("code %d: %s%s", o.code, o.stdout, o.stderr)
	}
	config := string(read(t, filepath.Join(dir, runs.ConfigName)))
	for _, want := range []string{"objective: velocity", "path: linear", "time-sampling: logit-normal",
		"time-shift: 0.3", "loss-weight: none"} {
		if !strings.Contains(config, "\n"+want+"\n") {
			t.Errorf("config.yaml lacks %q:\n%s", want, config)
		}
	}
	o = mustRun(t, "train", "--resume", dir, "--max-steps", "3", "--sample-every", "0")
	if !strings.Contains(o.stdout, "Continuing from step 2\n") || strings.Contains(o.stderr, "other settings") {
		t.Errorf("the run did not go on as it was: %s%s", o.stdout, o.stderr)
	}
	ditrun(t, "train", "--resume", dir, "--max-steps", "4", "--objective", "noise", "--sample-every", "0").refused(t, 1,
		"it was trained on another objective, velocity on the linear path, noise at 0, data at 1, this run is on "+
			"noise on the linear path", "--init-from begins a new run with its weights")
	ditrun(t, "train", "--resume", dir, "--max-steps", "4", "--objective", "eps", "--sample-every", "0").refused(t, 1,
		"--resume "+dir+": it was trained on another objective, velocity on the linear path, noise at 0, data at 1, "+
			"this run is on noise at DiT's 1000 steps", "--init-from begins a new run with its weights")
	ditrun(t, "train", "--resume", dir, "--objective", "v").refused(t, 2, `--objective "v": want eps, velocity`)
	o = ditrun(t, "train", "--resume", dir, "--max-steps", "4", "--time-shift", "1", "--sample-every", "0")
	if o.code != 0 || !strings.Contains(o.stderr, "other settings than it had: time-shift 0.3 before, 1 now") {
		t.Errorf("another shift: code %d: %s", o.code, o.stderr)
	}
	mustRun(t, "sample", "--ckpt", dir, "--vae", r.vae, "--solver", "euler", "--num-sampling-steps", "2", "--out",
		filepath.Join(t.TempDir(), "a.png"))

	const another = "was trained on another objective"
	o = train(filepath.Join(t.TempDir(), "next"), "--init-from", dir, "--objective", "eps")
	if o.code != 0 || !strings.Contains(o.stderr, another+", velocity on the linear path, noise at 0, data at 1, this "+
		"run is on noise at DiT's 1000 steps: the model has to learn it anew") {
		t.Errorf("eps: code %d: %s", o.code, o.stderr)
	}
	o = train(filepath.Join(t.TempDir(), "next"), "--init-from", dir, "--objective", "velocity")
	if o.code != 0 || strings.Contains(o.stderr, another) {
		t.Errorf("velocity: code %d: %s", o.code, o.stderr)
	}
	for _, c := range [][]string{
		{"--objective", "velocity", "--time-shift", "0", "--time-shift 0: want a positive number up to 1e+06"},
		{"--objective", "velocity", "--loss-weight", "velocity", "--loss-weight velocity: the loss of a velocity"},
		{"--loss-weight", "likelihood", "--loss-weight likelihood: for the objectives noise, score and data"},
		{"--path", "vp", "--path vp: for the objectives velocity, noise, score and data"},
	} {
		last := len(c) - 1
		train(filepath.Join(t.TempDir(), "no"), c[:last]...).refused(t, 2, c[last])
	}
}

// TestResumeRunFromBeforeObjectives: a run whose configuration has none is found by --resume auto, and goes on.
func TestResumeRunFromBeforeObjectives(t *testing.T) {
	r := theRoad(t)
	results := t.TempDir()
	flags := []string{"train", "--data", r.latents, "--model", "DiT-16x1x2/2", "--global-batch-size", "16",
		"--results-dir", results, "--ema-decay", "0"}
	mustRun(t, append(flags, "--max-steps", "1")...)
	dir := filepath.Join(results, "000-DiT-16x1x2-2")
	for name, change := range map[string][2]string{
		runs.ConfigName: {`(?m)^(objective|path|time-sampling|time-shift|loss-weight): .*\n`, ""},
		"run.json":      {`"config_hash": "[0-9a-f]*"`, `"config_hash": "0123456789abcdef"`},
	} {
		path := filepath.Join(dir, name)
		before := string(read(t, path))
		after := regexp.MustCompile(change[0]).ReplaceAllString(before, change[1])
		if after == before {
			t.Fatalf("%s lacks %s:\n%s", name, change[0], before)
		}
		write(t, path, []byte(after))
	}
	o := mustRun(t, append(flags, "--max-steps", "2", "--resume", "auto")...)
	if !strings.Contains(o.stdout, "Continuing from step 1\n") || strings.Contains(o.stderr, "other settings") {
		t.Errorf("the run did not go on as it was: %s%s", o.stdout, o.stderr)
	}
}
