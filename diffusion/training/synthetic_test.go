package training

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/philox"
	"github.com/ditrun/ditrun/torch/torchtest"
)

// syntheticPlan is for latents of 4x4x4 in three classes that are easy to tell.
func syntheticPlan(n int) latents.Plan {
	return latents.Plan{
		Dataset:  latents.Dataset{Samples: n, Hash: "synthetic", Order: "position", Classes: []string{"a", "b", "c"}},
		VAE:      latents.VAE{Name: "test", SHA256: strings.Repeat("ab", 32), ScalingFactor: 0.5},
		Channels: 4, Height: 4, Width: 4, DType: checkpoint.F32, Flip: true,
		ImageSize: picture.Square(32), Crop: picture.PillowClassic.Crop(), Decoder: picture.Decoders, ShardSize: 16,
		Tool: "test",
	}
}

// allOf is the source of latents whose captions, if they have any, can be read.
func allOf(l *latents.Set) samples.Source {
	src, err := samples.Latents(l)
	if err != nil {
		panic(err)
	}
	return src
}

// synthetic writes and opens latents: each class is one smooth pattern with little noise around it.
func synthetic(t testing.TB, plan latents.Plan) *latents.Set {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	w, err := latents.NewWriter(dir, plan)
	if err != nil {
		t.Fatal(err)
	}
	size := plan.Channels * plan.Height * plan.Width
	for c, err := range w.Claims(ctx, 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		var moments, flip []float32
		var labels []int64
		var ids []int
		for id := c.Lo; id < c.Hi; id++ {
			noise := make([]float32, size)
			philox.Normals(noise, 99, 0, 0, uint64(id))
			for _, view := range []*[]float32{&moments, &flip} {
				for j := range size {
					sign := float32(1)
					if (j>>uint(id%3))&1 == 1 {
						sign = -1
					}
					*view = append(*view, 2*sign+0.1*noise[j])
				}
				for range size {
					*view = append(*view, -6) // log variance
				}
			}
			labels, ids = append(labels, int64(id%3%len(plan.Dataset.Classes))), append(ids, id)
		}
		if !plan.Flip {
			flip = nil
		}
		if err := c.Add(ids, moments, flip, labels); err != nil {
			t.Fatal(err)
		}
		if err := c.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	l, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// small trains a tiny model on the synthetic latents.
func small(steps int) Config {
	cfg := DefaultConfig
	cfg.Model = dit.Config{InputSize: 4, PatchSize: 2, InChannels: 4, HiddenSize: 24, Depth: 2, NumHeads: 2,
		MLPRatio: 4, ClassDropoutProb: 0.1, NumClasses: 3, LearnSigma: true}
	cfg.ImageSize = picture.Square(32)
	cfg.GlobalBatchSize, cfg.Epochs, cfg.MaxSteps = 8, 0, steps
	cfg.LR, cfg.EMADecay, cfg.GlobalSeed = 3e-3, 0.9, 7
	cfg.LogEvery, cfg.CkptEvery = 1, 1000000
	return cfg
}

// run trains and returns the records; hooks may be nil.
func run(t testing.TB, cfg Config, l *latents.Set, dir, resume string, hooks Hooks) (Result, []Record) {
	t.Helper()
	result, records, err := tryRun(t, context.Background(), cfg, l, dir, resume, hooks)
	if err != nil {
		t.Fatal(err)
	}
	return result, records
}

func tryRun(t testing.TB, ctx context.Context, cfg Config, l *latents.Set, dir, resume string, hooks Hooks) (Result,
	[]Record, error) {
	t.Helper()
	var records []Record
	hooks.Log = func(r Record) { records = append(records, r) }
	result, err := Run(ctx, Job{Device: torchtest.Device(t), Config: cfg, Source: allOf(l), Dir: dir, Resume: resume,
		Hooks: hooks})
	return result, records, err
}

var optimizerAlone = saves.OptimizerName(0, 1)

var checkpointFiles = []string{saves.ModelName, saves.EMAName, optimizerAlone, saves.StateName}

func sameCheckpoint(t *testing.T, what, got, want string) {
	t.Helper()
	for _, name := range checkpointFiles {
		a, err := os.ReadFile(filepath.Join(got, name))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		b, err := os.ReadFile(filepath.Join(want, name))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %s differs", what, name)
		}
	}
}

// listing is the names in a folder.
func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}
