package training

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
	"github.com/ditrun/ditrun/vae"
)

// TestMain computes on one thread, for the reason that package vae's tests do.
func TestMain(m *testing.M) {
	torch.SetNumThreads(1)
	os.Exit(m.Run())
}

func testOptions(t *testing.T, out string) Options {
	t.Helper()
	model, err := vae.SmallConfig(8, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	model = model.WithLevels(8, 8)
	o := Options{Config: vae.DefaultTrainConfig(model), Source: &manyPictures{20, make([]int, 20)},
		Device: torchtest.Device(t), OutDir: out, FlipProb: 0.5, NumWorkers: 1, SaveEvery: 2}
	o.Config.MaxSteps, o.Config.BatchSize, o.Config.LogEvery = 6, 4, 1
	return o
}

// TestRun: a run leaves a model whose scaling factor is that of its latents. One that is cut short leaves a model too,
// and ends with the bytes of one that nothing stopped.
func TestRun(t *testing.T) {
	whole, stopped := filepath.Join(t.TempDir(), "whole"), filepath.Join(t.TempDir(), "stopped")
	o := testOptions(t, whole)
	measured := 0
	o.OnMeasure = func(done, total int) { measured = done }
	r, err := Run(t.Context(), o)
	if err != nil || r.Steps != 6 || r.Reconstructions != 1 || measured != 20 {
		t.Fatalf("result %+v, measured on %d, error %v", r, measured, err)
	}
	if _, err := os.Stat(RunDir(whole)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a finished run is kept: %v", err)
	}
	model, err := vae.Open(whole, o.Device)
	if err != nil {
		t.Fatal(err)
	}
	if got := model.Config().ScalingFactor; math.Abs(got*r.LatentStd-1) > 1e-6 {
		t.Errorf("scaling factor %v, standard deviation %v", got, r.LatentStd)
	}
	model.Close()

	o = testOptions(t, stopped)
	ctx, cancel := context.WithCancel(t.Context())
	o.OnStep = func(s vae.Step) {
		if s.Step == 3 {
			cancel()
		}
	}
	r, err = Run(ctx, o)
	if !errors.Is(err, context.Canceled) || r.Steps != 3 || r.Saved != 3 || r.LatentStd == 0 {
		t.Fatalf("cut short: result %+v, error %v", r, err)
	}
	o = testOptions(t, stopped)
	if o.Resume, err = vae.ReadState(RunDir(stopped)); err != nil || o.Resume.Data != o.DataName() {
		t.Fatalf("state %+v, error %v", o.Resume, err)
	}
	if r, err = Run(t.Context(), o); err != nil || r.Steps != 6 {
		t.Fatalf("continued: result %+v, error %v", r, err)
	}
	if o.Device.IsCUDA() {
		return // whose sums are not the same bits each time
	}
	for _, name := range []string{vae.WeightsName, vae.ConfigName, ReconstructionsName} {
		a, err := os.ReadFile(filepath.Join(whole, name))
		b, err2 := os.ReadFile(filepath.Join(stopped, name))
		if err != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs in the run that was cut short (%v, %v)", name, err, err2)
		}
	}
}

// TestRunRefuses: what cannot be trained, or not now, is said before anything is made.
func TestRunRefuses(t *testing.T) {
	out := filepath.Join(t.TempDir(), "vae")
	for want, change := range map[string]func(o *Options){
		"Source and OutDir are required": func(o *Options) { o.Source = nil },
		"flip-prob 2: want 0 to 1":       func(o *Options) { o.FlipProb = 2 },
		"batch":                          func(o *Options) { o.Config.BatchSize = 0 },
	} {
		o := testOptions(t, out)
		change(&o)
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: made %s", want, out)
		}
	}
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	lock, err := disk.TryLock(filepath.Join(out, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Remove()
	if _, err := Run(t.Context(), testOptions(t, out)); lock.Held() && !errors.As(err, new(*InUseError)) {
		t.Errorf("error %v of a folder in use", err)
	}
}
