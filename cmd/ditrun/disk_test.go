package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDiskFull takes the room away at the moment of saving: by a limit on the size of files, and by a
// small file system of its own where this user may mount one.
func TestDiskFull(t *testing.T) {
	r := theRoad(t)
	t.Run("earlier checkpoints", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		mustRun(t, r.train("--run-dir", run, "--max-steps", "2")...)
		unchanged(t, func() {
			o := runShell(t, "ulimit -f 12; exec \"$@\"",
				r.train("--run-dir", run, "--max-steps", "4", "--resume", "auto")...)
			o.unwarned().refused(t, 1, "save checkpoint of step 4: write ", "file too large",
				"hint: the same command with --run-dir "+run+" --resume auto continues")
		}, filepath.Join(run, "checkpoints"))
		mustRun(t, r.train("--run-dir", run, "--max-steps", "4", "--resume", "auto")...)
	})
	for _, c := range []struct {
		name  string
		disk  string // that has room when the work begins, and none for weights
		args  func(out string) []string
		texts []string
	}{
		{"train-vae", "nr_inodes=4", func(out string) []string {
			return slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", filepath.Join(out, "vae")},
				vaeFlags)
		}, []string{"save VAE: write ", vaeWeights}},
		{"encode-latents", "nr_inodes=4", func(out string) []string {
			return []string{"encode-latents", "--data", r.pictures, "--vae", r.vae, "--out",
				filepath.Join(out, "latents"), "--dtype", "fp32"}
		}, []string{"encode latents: write ", theShard, "hint: whole shards are kept"}},
		{"train", "nr_inodes=11", func(out string) []string {
			return r.train("--run-dir", filepath.Join(out, "run"), "--max-steps", "4", "--ckpt-every", "3")
		}, []string{"save checkpoint of step 4: write "}}, // that of step 3 is a warning
		{"sample", "size=28k",
			func(out string) []string { return r.sample(filepath.Join(out, "x.npz"), "--num-samples", "200") },
			[]string{"write ", "x.npz"}},
		{"sample sheet", "size=28k", func(out string) []string {
			return r.sample(filepath.Join(out, "x.png"), "--num-samples",
				"100")
		}, []string{"write ", "x.png"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Run("limit", func(t *testing.T) {
				t.Parallel() // processes of one thread, some of which wait
				out := t.TempDir()
				o := runShell(t, "ulimit -f 12; exec \"$@\"", c.args(out)...) // 6 KiB
				o.unwarned().refused(t, 1, append(c.texts, "file too large")...)
				leftovers(t, list(t, out))
			})
			t.Run("file system", func(t *testing.T) {
				t.Parallel()
				out := t.TempDir()
				if text, err := exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "none",
					out).CombinedOutput(); err != nil {
					t.Skipf("no file system to mount: %v: %s", err, bytes.TrimSpace(text))
				}
				shell := "mount -t tmpfs -o " + c.disk + " none " + out + " || exit 99; \"$@\"; code=$?; find " + out +
					" -mindepth 1 -printf \"left: %P\\n\"; exit $code"
				o := runShell(t, "exec unshare -m sh -c '"+shell+"' sh \"$@\"", c.args(out)...)
				o.unwarned().refused(t, 1, append(c.texts, "no space left on device")...)
				var left []string
				for line := range strings.Lines(o.stdout) {
					if name, ok := strings.CutPrefix(strings.TrimSpace(line), "left: "); ok {
						left = append(left, name)
					}
				}
				leftovers(t, left)
			})
		})
	}
}

// unwarned is the outcome without its warnings.
func (o outcome) unwarned() outcome {
	var kept strings.Builder
	for line := range strings.Lines(o.stderr) {
		if !strings.HasPrefix(line, "ditrun: warning: ") {
			kept.WriteString(line)
		}
	}
	o.stderr = kept.String()
	return o
}

// leftovers wants nothing below a folder but what a run keeps from its start, and pictures that sample continues with.
func leftovers(t *testing.T, names []string) {
	t.Helper()
	for _, name := range names {
		name, _, _ = strings.Cut(name, "events.out.tfevents")
		if (strings.HasPrefix(name, ".x.npz.") || strings.HasPrefix(name, ".x.png.")) &&
			strings.Contains(name, ".partial") {
			continue
		}
		switch name {
		case "run/", "vae", "latents", "run", "run/.lock", "run/config.yaml", "run/run.json", "run/log.txt",
			"run/log.jsonl", "run/loss.png", "run/samples", "run/checkpoints":
		default:
			t.Errorf("%s is left behind", name)
		}
	}
}

func runShell(t *testing.T, shell string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := command(t, shell, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Run()
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}
