package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stopped checks how an interrupted command ends.
func (o outcome) stopped(t *testing.T, texts ...string) {
	t.Helper()
	o.stoppedBy(t, syscall.SIGINT, texts...)
}

// stoppedBy checks how a command ends whose work a signal cut short.
func (o outcome) stoppedBy(t *testing.T, sig syscall.Signal, texts ...string) {
	t.Helper()
	o.refused(t, 128+int(sig), append(texts, "ditrun: error: interrupted\n")...)
	if !strings.Contains(o.stderr, "ditrun: stopping; interrupt again to stop at once\n") {
		t.Errorf("errors\n%s\ndo not say that the command is stopping", o.stderr)
	}
}

func TestInterruptTrainVAE(t *testing.T) {
	r := theRoad(t)
	for _, sig := range interrupts {
		out := filepath.Join(t.TempDir(), "vae")
		p := start(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", out}, vaeFlags,
			[]string{"--max-steps", "100000", "--log-every", "1"})...)
		p.until("(step=0000003)")
		p.signal(sig)
		p.wait().stoppedBy(t, sig, "ditrun: hint: "+out+" holds the model after ",
			" of 100,000 steps; it can be used, and --resume auto continues it")
		run := []string{"training", "training/config.json", "training/" + vaeWeights, "training/optimizer.safetensors",
			"training/train-vae.json"}
		if got := list(t, out); !slices.Equal(got,
			append([]string{"SHA256SUMS", "config.json", vaeWeights}, run...)) {
			t.Errorf("%v leaves %q", sig, got)
		}
		mustRun(t, "encode-latents", "--data", r.pictures, "--vae", out, "--out", filepath.Join(t.TempDir(), "latents"))
	}
}

func TestInterruptEncode(t *testing.T) {
	r := theRoad(t)
	pictures := filepath.Join(t.TempDir(), "many")
	writeIDX(t, pictures, 2*4096+50, 2) // three shards
	encode := func(out string) []string {
		return []string{"encode-latents", "--data", pictures, "--vae", r.vae, "--out", out, "--image-size", "2",
			"--batch-size", "64"}
	}
	whole := filepath.Join(t.TempDir(), "whole")
	mustRun(t, encode(whole)...)
	files := list(t, whole)
	for _, sig := range interrupts {
		out := filepath.Join(t.TempDir(), "latents")
		// Another process seems to make the last shard: this one has to wait for it in the end.
		release := hold(t, filepath.Join(out, "latents-00002-of-00003.safetensors.lock"))
		p := startFree(t, encode(out)...)
		waitFor(t, filepath.Join(out, "latents-00000-of-00003.safetensors"))
		p.signal(sig)
		p.wait().stoppedBy(t, sig, "ditrun: hint: whole shards are kept; the same command continues")
		release()
		got := list(t, out)
		if len(got) == 0 || len(got) > 2 {
			t.Errorf("%v leaves %q", sig, got)
		}
		for _, name := range got {
			if !slices.Contains(files, name) || name == "manifest.json" {
				t.Errorf("%v leaves %s", sig, name)
			}
		}
		ditrun(t, "train", "--data", out).refused(t, 1,
			"no manifest.json: not a folder of latents, or encoding has not finished", "hint: ")
		before := modified(t, filepath.Join(out, got[0]))
		mustRun(t, encode(out)...)
		if !modified(t, filepath.Join(out, got[0])).Equal(before) {
			t.Error("a whole shard was made again")
		}
		if again := list(t, out); !slices.Equal(again, files) {
			t.Errorf("continued: %q, want %q", again, files)
		}
		equalFiles(t, whole, out, files...)
	}
}

// hold takes the lock file at path as another process would.
func hold(t *testing.T, path string) (release func()) {
	t.Helper()
	write(t, path, nil)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() {
		os.Remove(path)
		f.Close()
	}
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.ModTime()
}

// TestInterruptTrain: a run that is stopped twice, continued once by auto and once by path, ends with
// the bytes of one that was not, and its log has each step once.
func TestInterruptTrain(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	whole, run := filepath.Join(dir, "whole"), filepath.Join(dir, "run")
	flags := []string{"--max-steps", "30", "--log-every", "1", "--ckpt-every", "20"}
	mustRun(t, r.train(append(flags, "--run-dir", whole)...)...)

	resume := "none"
	for i, sig := range interrupts {
		p := start(t, r.train(append(flags, "--run-dir", run, "--resume", resume)...)...)
		p.until("(step=00000" + []string{"05", "15"}[i] + ")")
		// It waits now for somebody to read its lines. Others keep off.
		ditrun(t, r.train(append(flags, "--run-dir", run, "--resume", "auto")...)...).refused(t, 1,
			"run "+run+": in use by another process")
		ditrun(t, r.train(append(flags, "--run-dir", run)...)...).refused(t, 1, "run folder "+run+" holds a run")
		p.signal(sig)
		o := p.wait()
		if sig == syscall.SIGINT {
			o.stopped(t, "ditrun: hint: the same command with --run-dir "+run+" --resume auto continues")
		} else if o.code != 0 || strings.Contains(o.stderr, "error") ||
			!strings.Contains(o.stdout, "holds all that was done, --resume auto continues") {
			t.Errorf("%v: code %d, printed\n%s%s", sig, o.code, o.stdout, o.stderr)
		}
		if !strings.Contains(o.stdout, "\nSaved checkpoint to "+run) || strings.Contains(o.stdout, "Done!") {
			t.Errorf("%v: printed\n%s", sig, o.stdout)
		}
		latest, err := filepath.EvalSymlinks(filepath.Join(run, "checkpoints", "latest"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range list(t, run) {
			if strings.Contains(name, "tmp") {
				t.Errorf("%v leaves %s", sig, name)
			}
		}
		mustRun(t, r.sample(filepath.Join(dir, "x.png"), "--ckpt", latest)...)
		resume = []string{"auto", latest}[i]
	}
	mustRun(t, r.train(append(flags, "--run-dir", run, "--resume", resume)...)...)
	equalFiles(t, filepath.Join(whole, "checkpoints/0000030"), filepath.Join(run, "checkpoints/latest"),
		checkpointFiles...)
	var all []int
	for i := range 30 {
		all = append(all, i+1)
	}
	checkLog(t, run, all...)
	size(t, filepath.Join(run, "loss.png"))
}

func TestInterruptSample(t *testing.T) {
	r := theRoad(t)
	for _, sig := range interrupts {
		for _, name := range []string{"x.png", "x.npz", "folder"} {
			dir := t.TempDir()
			p := start(t, r.sample(filepath.Join(dir, name), "--num-sampling-steps", "1000", "--num-samples", "1000",
				"--batch-size", "10")...)
			p.until("model ")
			p.signal(sig)
			p.wait().stoppedBy(t, sig)
			if got := list(t, dir); len(got) > 0 {
				t.Errorf("%v leaves %q", sig, got)
			}
		}
	}
}

// TestInterruptConvert: what a signal cuts short leaves nothing, whatever is converted.
func TestInterruptConvert(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	fast := filepath.Join(dir, "fast")
	mustConvertLatents(t, r.latents, "fast-dit", fast)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTerminated)
	for name, args := range map[string][]string{
		"x.pt":          {"--ckpt", r.run, "--to", "official"},
		"x.safetensors": {"--ckpt", r.run, "--to", "ditrun"},
		"diffusers":     {"--ckpt", r.run, "--to", "diffusers", "--vae", r.vae},
		"fast-dit":      {"--latents", r.latents, "--to", "fast-dit"},
		"lightningdit":  {"--latents", r.latents, "--to", "lightningdit"},
		"edm2":          {"--latents", r.latents, "--to", "edm2"},
		"edm2.zip":      {"--latents", r.latents, "--to", "edm2"},
		"latents":       {"--latents", fast, "--to", "ditrun", "--vae", r.vae},
	} {
		out := filepath.Join(dir, "out", name)
		if err := os.MkdirAll(filepath.Dir(out), 0o777); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		code := run(ctx, slices.Concat([]string{"ditrun", "convert", "--out", out}, args), &stdout, &stderr)
		if code != exitTerminated || !strings.Contains(stderr.String(), "ditrun: error: interrupted\n") {
			t.Errorf("%s: code %d\n%s", name, code, stderr.String())
		}
	}
	if got := list(t, filepath.Join(dir, "out")); len(got) > 0 {
		t.Errorf("left behind: %q", got)
	}
}

// mustConvertLatents is convert of latents, which warns of what the form does not keep.
func mustConvertLatents(t *testing.T, latents, to, out string) {
	t.Helper()
	if o := ditrun(t, "convert", "--latents", latents, "--to", to, "--out", out); o.code != 0 {
		t.Fatalf("%s: code %d\n%s", to, o.code, o.stderr)
	}
}

// TestLeftoversAreSwept: what killed processes left goes with the next run of the same command.
func TestLeftoversAreSwept(t *testing.T) {
	r := theRoad(t)
	many := filepath.Join(t.TempDir(), "many")
	writeIDX(t, many, 64, 8)
	for out, args := range map[string][]string{
		"x.pt":          {"convert", "--ckpt", r.run, "--to", "official"},
		"x.safetensors": {"convert", "--ckpt", r.run, "--to", "ditrun"},
		"diffusers":     {"convert", "--ckpt", r.run, "--to", "diffusers", "--vae", r.vae},
		"lightningdit":  {"convert", "--latents", r.latents, "--to", "lightningdit"},
		"edm2.zip":      {"convert", "--latents", r.latents, "--to", "edm2"},
		"x.png":         {"sample", "--ckpt", r.run, "--vae", r.vae, "--num-sampling-steps", "2"},
		"x.npz":         {"sample", "--ckpt", r.run, "--vae", r.vae, "--num-sampling-steps", "2"},
		"pictures":      {"sample", "--ckpt", r.run, "--vae", r.vae, "--num-sampling-steps", "2"},
		"vae":           slices.Concat([]string{"train-vae", "--data", r.pictures}, vaeFlags),
		"latents":       {"encode-latents", "--data", many, "--vae", r.vae, "--preview", "2"},
	} {
		t.Run(out, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, out)
			other := filepath.Join(dir, ".other.pt.999999-ABCDEFGH.tmp")
			write(t, other, []byte("not ours"))
			write(t, filepath.Join(dir, "."+out+".999999-ABCDEFGH.tmp"), []byte("half a file"))
			write(t, filepath.Join(dir, "."+out+".999999-BCDEFGHA.tmp", "x"), []byte("half a folder"))
			switch out {
			case "latents":
				for _, name := range []string{theShard, "manifest.json", "preview.png"} {
					write(t, filepath.Join(path, "."+name+".999999-ABCDEFGH.tmp"), nil)
				}
			case "vae":
				for _, name := range []string{"config.json", vaeWeights, "reconstructions.png"} {
					write(t, filepath.Join(path, "."+name+".999999-ABCDEFGH.tmp"), nil)
				}
				write(t, filepath.Join(path, ".training.999999-ABCDEFGH.tmp", vaeWeights), nil)
				write(t, filepath.Join(path, ".lock"), nil)
			}
			o := ditrun(t, append(args, "--out", path)...)
			if o.code != 0 {
				t.Fatalf("code %d\n%s", o.code, o.stderr)
			}
			for _, name := range list(t, dir) {
				base := filepath.Base(name)
				if base != filepath.Base(other) && (out != "latents" && out != "vae" || name != base) &&
					strings.HasPrefix(base, ".") {
					t.Errorf("%s is left", name)
				}
			}
			if !exists(other) {
				t.Error("what another command may have left is gone")
			}
		})
	}
}

// TestSecondInterrupt: the second signal ends the process whatever it does, here wait for its output to be read.
func TestSecondInterrupt(t *testing.T) {
	r := theRoad(t)
	run := filepath.Join(t.TempDir(), "run")
	p := start(t, r.train("--run-dir", run, "--max-steps", "100000", "--log-every", "1", "--ckpt-every", "20")...)
	p.until("Saved checkpoint to ")
	for waiting := 0; waiting == 0; time.Sleep(time.Millisecond) { // until the pipe has no room for a line
		var err error
		if waiting, err = unix.IoctlGetInt(int(p.pipe.Fd()), unix.TIOCINQ); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond)
	p.signal(syscall.SIGINT)
	time.Sleep(20 * time.Millisecond) // two signals at once may arrive as one
	began := time.Now()
	p.signal(syscall.SIGINT)
	p.cmd.Wait()
	if code := p.cmd.ProcessState.ExitCode(); code != exitInterrupted || strings.Contains(p.stderr.String(), "error") {
		t.Errorf("code %d, errors %q", code, p.stderr.String())
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the second interrupt took %v", d)
	}
	// What was there stays good.
	mustRun(t, r.train("--run-dir", run, "--max-steps", fmt.Sprint(nextStep(t, run)), "--log-every", "1",
		"--ckpt-every", "20", "--resume", "auto")...)
}
