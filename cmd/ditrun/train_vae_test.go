package main

import (
	"fmt"
	"image"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/vae"
	"github.com/ditrun/ditrun/vae/training"
)

// vaeOutput are the files of a model.
var vaeOutput = []string{"SHA256SUMS", "config.json", vaeWeights, "reconstructions.png"}

// trainVAE is a command line that saves every 5 of 40 steps.
func (r road) trainVAE(out string, more ...string) []string {
	return slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", out}, vaeFlags,
		[]string{"--max-steps", "40", "--ckpt-every", "5", "--log-every", "1", "--ema-decay", "0.9"}, more)
}

// savedVAE waits for a save of step least or later.
func savedVAE(t *testing.T, out string, least int) int {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if st, err := vae.ReadState(training.RunDir(out)); err == nil && st.Step >= least {
			return st.Step
		}
	}
	t.Fatalf("%s: no save of step %d", out, least)
	return 0
}

// TestStoppedTrainVAEContinues: killed, interrupted, terminated, a run ends with the bytes of one that nothing stopped.
func TestStoppedTrainVAEContinues(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "stopped")
	mustRun(t, r.trainVAE(whole)...)
	if got := list(t, whole); !slices.Equal(got, vaeOutput) {
		t.Errorf("a finished model is %q", got)
	}
	step, resume := 0, []string{"--resume", "none"}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT, syscall.SIGTERM} {
		p := start(t, r.trainVAE(out, resume...)...)
		resume = nil
		p.until(fmt.Sprintf("(step=%07d)", step+6))
		step = savedVAE(t, out, step+1)
		p.signal(sig)
		o := p.wait()
		if sig == syscall.SIGKILL {
			if got := list(t, out); slices.Contains(got, vaeWeights) {
				t.Fatal("killed too late")
			}
		} else {
			o.stoppedBy(t, sig, "hint: "+out+" holds the model after ",
				" of 40 steps; it can be used, and --resume auto continues it")
			if !strings.Contains(o.stdout, "Continuing from step ") {
				t.Errorf("printed\n%s", o.stdout)
			}
		}
		step = savedVAE(t, out, step)
		ditrun(t, r.trainVAE(out, "--resume", "none")...).refused(t, 1, "there is a run that was cut short (training)",
			"hint: --resume auto continues it")
	}
	ditrun(t, r.trainVAE(out, "--resume", "auto", "--lr", "1e-4")...).refused(t, 1,
		"it was trained with lr 0.002, this run has 0.0001")
	lock, err := disk.TryLock(filepath.Join(out, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	if lock.Held() {
		ditrun(t, r.trainVAE(out, "--resume", "auto")...).refused(t, 1, "--out "+out+": in use by another process")
	}
	lock.Remove()
	mustRun(t, r.trainVAE(out, "--resume", "auto")...)
	equalFiles(t, whole, out, vaeOutput...)
	if got := list(t, out); !slices.Equal(got, vaeOutput) {
		t.Errorf("a finished model is %q", got)
	}
	ditrun(t, r.trainVAE(out, "--resume", "auto")...).refused(t, 1, "there is a model already")

	weights := filepath.Join(training.RunDir(out), vaeWeights)
	write(t, weights, []byte("not it"))
	write(t, filepath.Join(training.RunDir(out), "train-vae.json"), []byte("{}"))
	ditrun(t, r.trainVAE(out, "--resume", "auto")...).refused(t, 1, "resume from "+training.RunDir(out),
		"damaged", "hint: to begin a new run, remove ")
}

// TestTrainVAEKeepsWhatAnErrorEnds: a picture that vanishes costs no step.
func TestTrainVAEKeepsWhatAnErrorEnds(t *testing.T) {
	needTorch(t)
	dir := t.TempDir()
	pictures, out := filepath.Join(dir, "pictures"), filepath.Join(dir, "vae")
	path := func(i int) string { return filepath.Join(pictures, "class", fmt.Sprintf("%d.png", i)) }
	if err := os.MkdirAll(filepath.Dir(path(0)), 0o777); err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		img := image.NewNRGBA(image.Rect(0, 0, 8, 8))
		for k := range img.Pix {
			img.Pix[k] = uint8(255 - i*k%200)
		}
		img.Set(i%8, i/8, color.White)
		if err := sheet.WritePNG(path(i), img); err != nil {
			t.Fatal(err)
		}
	}
	args := func(out string, more ...string) []string {
		return slices.Concat([]string{"train-vae", "--data", pictures, "--out", out}, vaeFlags,
			[]string{"--max-steps", "60", "--ckpt-every", "100000", "--log-every", "1"}, more)
	}
	whole := filepath.Join(dir, "whole")
	mustRun(t, args(whole)...)
	p := start(t, args(out)...)
	p.until("(step=0000007)")
	if err := os.Rename(path(3), path(3)+".away"); err != nil {
		t.Fatal(err)
	}
	o := p.wait()
	o.refused(t, 1, "3.png", "hint: "+training.RunDir(out)+" holds the run after ",
		"the same command with --resume auto continues it")
	if step := savedVAE(t, out, 7); !strings.Contains(o.stderr, fmt.Sprintf("the run after %d steps", step)) ||
		step == 60 {
		t.Errorf("a save of step %d, errors\n%s", step, o.stderr)
	}
	if err := os.Rename(path(3)+".away", path(3)); err != nil {
		t.Fatal(err)
	}
	mustRun(t, args(out, "--resume", "auto")...)
	equalFiles(t, whole, out, vaeOutput...)
}

// TestVAELossInWords: a loss of nothing has no PSNR, but a number is printed.
func TestVAELossInWords(t *testing.T) {
	for _, c := range []struct {
		loss string
		rec  float64
		want string
	}{
		{"mse", 0.04, "20.0 dB"}, {"mse", 0, "68.0 dB"}, {"l1", 0.08, "10.2 of 255 levels"},
		{"l1", 0, "0.0 of 255 levels"},
	} {
		if got := inWords(c.loss, c.rec); got != c.want {
			t.Errorf("%s %v: %s, want %s", c.loss, c.rec, got, c.want)
		}
	}
}
