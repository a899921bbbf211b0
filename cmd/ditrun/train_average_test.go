package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/diffusion/runs"
)

// TestAverageFollowsLength: where no flag says which, a short run has an average of a tenth of its length, and keeps
// it when it is continued for longer. A run with the paper's average keeps that: earlier versions gave it to every run
// whose flags chose none.
func TestAverageFollowsLength(t *testing.T) {
	r := theRoad(t)
	results := t.TempDir()
	flags := []string{"train", "--data", r.latents, "--model", "DiT-16x1x2/2", "--global-batch-size", "16",
		"--results-dir", results}
	train := func(steps string, more ...string) outcome {
		o := ditrun(t, slices.Concat(flags, []string{"--max-steps", steps, "--log-every", steps}, more)...)
		if o.code != 0 {
			t.Fatalf("code %d: %s", o.code, o.stderr)
		}
		return o
	}
	has := func(o outcome, run, decay, line string) {
		t.Helper()
		config := string(read(t, filepath.Join(results, run, runs.ConfigName)))
		if !strings.Contains(config, "\nema-decay: "+decay+"\n") || !strings.Contains(o.stdout, ", ema "+decay+",") {
			t.Errorf("%s: the decay is not %s:\n%s%s", run, decay, config, o.stdout)
		}
		if line == "" && strings.Contains(o.stdout, "\nema ") || !strings.Contains(o.stdout, line) {
			t.Errorf("%s: want the line %q:\n%s", run, line, o.stdout)
		}
	}
	const first, second = "000-DiT-16x1x2-2", "001-DiT-16x1x2-2"
	has(train("40"), first, "0.75", "\nema     decay 0.75, as the run has 40 steps; the paper's is 0.9999\n")
	longer := "\nema     decay 0.75, as at the start of the run; 0.8 would fit 50 steps\n"
	o := train("50", "--resume", "auto")
	has(o, first, "0.75", longer)
	if !strings.Contains(o.stdout, "Continuing from step 40\n") || strings.Contains(o.stderr, "ditrun:") {
		t.Errorf("the run was not continued as it was: %s%s", o.stdout, o.stderr)
	}
	o = mustRun(t, "train", "--resume", filepath.Join(results, first), "--max-steps", "55")
	has(o, first, "0.75", "\nema     decay 0.75, as at the start of the run; 0.82 would fit 55 steps\n")

	// A decay that was chosen is another run; without one the newest is continued whose decay nobody chose.
	o = train("40", "--resume", "auto", "--ema-decay", "0.9999")
	has(o, second, "0.9999", "")
	if !strings.Contains(o.stderr, "after 40 steps, 100 % of the average are still the first") {
		t.Errorf("no warning: %s", o.stderr)
	}
	train("40", "--ema-decay", "0.5") // the third, which is not it
	o = train("50", "--resume", "auto")
	has(o, second, "0.9999", "")
	if !strings.Contains(o.stdout, "Continuing from step 40\n") || strings.Contains(o.stderr, "other settings") {
		t.Errorf("a run of the paper's average was not continued as it was: %s%s", o.stdout, o.stderr)
	}
	o = train("40", "--ema-warmup")
	has(o, "003-DiT-16x1x2-2", "0.9999", "")
	if strings.Contains(o.stderr, "average") {
		t.Errorf("a warning with --ema-warmup, by which the average is right: %s", o.stderr)
	}
}
