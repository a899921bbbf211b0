package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/philox"
)

// noiseLatents are n latents of 4x4x4 in three classes.
func noiseLatents(t *testing.T, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "latents")
	ctx := context.Background()
	w, err := latents.NewWriter(dir, latents.Plan{
		Dataset:  latents.Dataset{Samples: n, Hash: "noise", Order: "position", Classes: []string{"a", "b", "c"}},
		VAE:      latents.VAE{Name: "test", SHA256: strings.Repeat("ab", 32), ScalingFactor: 0.18215},
		Channels: 4, Height: 4, Width: 4, DType: checkpoint.F32, ImageSize: picture.Square(32),
		Crop:    picture.PillowClassic.Crop(),
		Decoder: picture.Decoders, ShardSize: n, Tool: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	for c, err := range w.Claims(ctx, 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		var ids []int
		var labels []int64
		for id := c.Lo; id < c.Hi; id++ {
			ids, labels = append(ids, id), append(labels, int64(id%3))
		}
		moments := make([]float32, len(ids)*2*64)
		philox.Normals(moments, 3, 0, 0, uint64(c.Lo))
		if err := c.Add(ids, moments, nil, labels); err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestResumeFromOriginal: a file of the original's training script goes on in a run folder of its own, whose log begins
// after the file's step, and which then needs the file no more.
func TestResumeFromOriginal(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "0000003.pt")
	if err := os.WriteFile(file, read(t, "../../diffusion/testdata/resume/0000003.pt"), 0o666); err != nil {
		t.Fatal(err)
	}
	base := []string{"train", "--data", noiseLatents(t, 24), "--model", "DiT-24x1x2/2", "--global-batch-size", "8",
		"--ema-decay", "0.5",
		"--log-every", "1", "--results-dir", filepath.Join(dir, "results")}
	train := func(run string, more ...string) outcome {
		t.Helper()
		return ditrun(t, append(append(base, "--run-dir", filepath.Join(dir, run)), more...)...)
	}
	o := train("a", "--resume", file, "--max-steps", "6")
	for _, want := range []string{"warning: " + file + " is a checkpoint of DiT's own training script",
		"warning: the run goes on with other settings than it had: global-batch-size 16 before, 8 now; global-seed 5 " +
			"before, 0 now; lr 0.001 before, 0.0001 now\n"} {
		if o.code != 0 || !strings.Contains(o.stderr, want) {
			t.Errorf("code %d; no %q:\n%s", o.code, want, o.stderr)
		}
	}
	if strings.Count(o.stderr, "order of the data") != 1 {
		t.Errorf("the order of the data is not said once:\n%s", o.stderr)
	}
	run := filepath.Join(dir, "a")
	checkLog(t, run, 4, 5, 6)
	if log := string(read(t, filepath.Join(run, "log.txt"))); !strings.Contains(log,
		"Began at step 0000003 from "+file) ||
		!strings.Contains(log, "Saved checkpoint to "+filepath.Join(run, "checkpoints", "0000003")) {
		t.Errorf("log.txt does not say where it began:\n%s", log)
	}

	// The same command continues, from the checkpoints of the run; so it is where it was stopped before it had one.
	if o := train("a", "--resume", file, "--max-steps", "8"); o.code != 0 || !strings.Contains(o.stdout,
		"Continuing from step 6\n") {
		t.Errorf("code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	checkLog(t, run, 4, 5, 6, 7, 8)
	if o := train("b", "--resume", file, "--max-steps", "8"); o.code != 0 {
		t.Errorf("code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	equalFiles(t, filepath.Join(run, "checkpoints/0000008"), filepath.Join(dir, "b", "checkpoints/0000008"),
		checkpointFiles...)
	if err := os.RemoveAll(filepath.Join(run, "checkpoints")); err != nil {
		t.Fatal(err)
	}
	if o := train("a", "--resume", "auto", "--max-steps", "8"); o.code != 0 || !strings.Contains(o.stdout,
		"Continuing from step 3\n") {
		t.Errorf("code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	equalFiles(t, filepath.Join(run, "checkpoints/0000008"), filepath.Join(dir, "b", "checkpoints/0000008"),
		checkpointFiles...)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if o := train("a", "--resume", "auto", "--max-steps", "9"); o.code != 0 || !strings.Contains(o.stdout,
		"Continuing from step 8\n") {
		t.Errorf("without the file: code %d\n%s%s", o.code, o.stdout, o.stderr)
	}

	// Where nothing can be written, the file is what the run goes on from.
	if err := os.WriteFile(file, read(t, "../../diffusion/testdata/resume/0000003.pt"), 0o666); err != nil {
		t.Fatal(err)
	}
	small := append(append(base, "--run-dir", filepath.Join(dir, "small")), "--resume", file, "--max-steps", "4")
	runShell(t, "ulimit -f 60; exec \"$@\"", small...).unwarned().refused(t, 1, "file too large",
		"--resume auto continues, from step 3 in "+file)
	if o := train("small", "--resume", "auto", "--max-steps", "4"); o.code != 0 || !strings.Contains(o.stdout,
		"Continuing from step 3\n") {
		t.Errorf("code %d\n%s%s", o.code, o.stdout, o.stderr)
	}

	// Weights alone are no run.
	weights := filepath.Join(dir, "weights.pt")
	mustRun(t, "convert", "--ckpt", run, "--to", "official", "--out", weights)
	train("c", "--resume", weights).refused(t, 1, "resume from "+weights+": it holds no ema, no opt",
		"hint: --init-from "+weights+" begins a new run with its weights")
	sit := filepath.Join(dir, "SiT-weights.pt")
	mustRun(t, "convert", "--ckpt", run, "--to", "official", "--out", sit)
	train("c", "--resume", sit).refused(t, 1, "resume from "+sit+": a checkpoint of SiT: only training checkpoints of "+
		"facebookresearch/DiT are continued", "hint: --init-from "+sit+" --objective velocity --path linear begins "+
		"a new run with its weights")
	ema := filepath.Join(run, "checkpoints", "latest", saves.EMAName)
	train("c", "--resume", ema).refused(t, 1, "resume from "+ema+": it holds no ema, no opt",
		"hint: --resume "+filepath.Dir(ema)+" continues its run; --init-from "+ema)
	if info, err := runs.ReadInfo(filepath.Join(dir, "c")); err == nil {
		t.Errorf("a run folder in spite of the refusal: %+v", info)
	}
}
