package main

import (
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/training"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/vae"
)

// fits wants lines of at most 80 columns, if each of the given names were as short as "pictures", and no character that
// is not one of text.
func fits(t *testing.T, text string, names ...string) {
	t.Helper()
	for line := range strings.Lines(text) {
		short := strings.TrimSuffix(line, "\n")
		for _, name := range names {
			short = strings.ReplaceAll(short, name, "pictures")
		}
		if n := len([]rune(short)); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
		if strings.ContainsFunc(short, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Errorf("control characters: %q", line)
		}
	}
}

// TestLinesFit: what the commands print, in a pipe, fits a terminal of 80 columns.
func TestLinesFit(t *testing.T) {
	r := theRoad(t)
	dir := t.TempDir()
	spoilt := writeTree(t, 4)
	write(t, filepath.Join(spoilt, "n01440764", "empty.png"), nil)
	names := []string{filepath.Join(dir, "vae"), dir, spoilt, r.pictures, r.latents, r.vae, r.run}
	for _, args := range [][]string{
		{"train-vae", "--data", r.pictures, "--out", filepath.Join(dir, "vae"), "--image-size", "8", "--downsample",
			"2",
			"--block-out-channels", "8,8", "--norm-num-groups", "4", "--max-steps", "4", "--log-every", "2"},
		{"encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", filepath.Join(dir, "latents")},
		{"encode-latents", "--verify", "--out", r.latents},
		r.train("--run-dir", filepath.Join(dir, "run"), "--max-steps", "4", "--log-every", "1", "--sample-every", "2",
			"--vae", r.vae),
		r.sample(filepath.Join(dir, "sheet.png"), "--class-labels", "0,1"),
		{"convert", "--ckpt", r.run, "--to", "official", "--out", filepath.Join(dir, "model.pt")},
		{"inspect", r.vae}, {"inspect", r.latents}, {"inspect", r.pictures},
		{"classes", "--data", r.pictures}, {"models"}, {"fetch"}, {"version"}, {"doctor", "--no-test"},
	} {
		o := mustRun(t, args...)
		fits(t, o.stdout+o.stderr, names...)
	}
	// The pictures that are left out are a list.
	o := succeed(t, slices.Concat([]string{"train-vae", "--data", spoilt, "--out", filepath.Join(dir, "vae2"),
		"--on-error", "skip"}, vaeFlags, []string{"--batch-size", "4"})...)
	fits(t, o.stdout+o.stderr, names...)
}

// TestWideFigures: so do lines whose figures are those of the largest runs.
func TestWideFigures(t *testing.T) {
	var out bytes.Buffer
	cfg := training.DefaultConfig
	cfg.Model, cfg.MaxSteps, cfg.Epochs, cfg.GlobalBatchSize, cfg.LR = dit.XL2, 7_000_000, 0, 1024, 0.000123
	cfg.Model.InputSize, cfg.Precision, cfg.LRSchedule = 64, "bf16", "constant"
	set := samples.Set{Samples: 1_281_167, Channels: 4, Height: 64, Width: 64, Classes: make([]string, 1000),
		Flip:      true,
		ImageSize: picture.Square(512)}
	for _, pictures := range []bool{false, true} {
		for _, steps := range []int{7_000_000, 400_000} {
			cfg.MaxSteps = steps
			cfg.EMADecay = training.EMADecay(steps)
			o := &trainOptions{data: "DATA", given: func(string) bool { return false }}
			e := &env{ctx: t.Context(), stdout: &out, stderr: io.Discard}
			j := &trainJob{env: e, trainInput: &trainInput{config: &cfg, set: set, pictures: pictures}, options: o,
				derived: []string{emaDecayFlag}}
			j.describe("RUN")
			cfg.EMADecay = 0.75
			j.describe("RUN")
		}
	}
	step := vae.Step{Step: 7_000_000, Losses: &vae.Losses{Rec: 0.22862, KL: 12345.67}}
	out.WriteString(vaeLine(step, "", 1234, 23*time.Hour+20*time.Minute) + "\n")
	out.WriteString("standard deviation by channel after scaling: " +
		deviations([]float64{1.12, 0.98, 1.01, 10.2, 0.912}, 1) + "\n")
	if got, want := deviations(make([]float64, 16), 1), "0.00 to 0.00"; got != want {
		t.Errorf("16 channels: %s, want %s", got, want)
	}
	fits(t, out.String())
	if n := strings.Count(out.String(), "\nema "); n != 4 { // without those of the paper's decay
		t.Errorf("%d lines about the average, want 4 of 8 in\n%s", n, out.String())
	}
}
